//! 9P messages in chains of buffers, before the file server that guests have (see `device`).

#![no_main]

env86_fuzz::device!(env86_fuzz::device::virtio::sessions);
