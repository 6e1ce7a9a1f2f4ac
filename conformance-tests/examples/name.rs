//! Completes named cases with this processor's answers: `cargo run -p conformance-tests --example name --
//! FILE` prints the cases of FILE, whatever they expect, with what the processor does.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() {
    eprintln!("Only 64-bit Linux hosts can answer.");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> Result<(), String> {
    use conformance_tests::layout::Processor;
    use conformance_tests::oracle::Silicon;
    use conformance_tests::{ARENA, ARENA_LEN, named, policy};

    let path = std::env::args().nth(1).ok_or("usage: name FILE")?;
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut silicon = Silicon::get().ok_or("this host cannot run 32-bit code")?;
    for mut case in named::parse(&text)? {
        case.input.store(&mut *silicon);
        case.want = silicon.exec(&case.input.regs, true);
        case.want.regs.eflags &= policy::FLAGS;
        if case.want.fault.is_some() {
            case.want.regs.fp.pointers = case.input.regs.fp.pointers;
        }
        case.arena = silicon.memory(ARENA, ARENA_LEN).to_vec();
        println!("{}", case.text());
    }
    Ok(())
}
