//! The i386: CPU state, decoder, interpreter, soft floating point, guest memory, bus and time traits.
