//! Wire protocol between host and guest service, and the guest service itself.
