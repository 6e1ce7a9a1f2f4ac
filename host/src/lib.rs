//! The env86 command.
