//! The methods of the guest service.
