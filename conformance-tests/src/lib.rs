//! Tests of the CPU and the machine against silicon, other emulators and recorded answers.
