//! The CD-ROM drive while the host changes the CD (see `device`).

#![no_main]

env86_fuzz::device!(env86_fuzz::device::storage::ide_cd);
