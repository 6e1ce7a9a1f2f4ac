//! Records the answers of this host's processor: `cargo run --release -p conformance-tests --example
//! record -- DIRECTORY YYYY-MM-DD`. `cargo xtask silicon --record` calls it.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() {
    eprintln!("Only 64-bit Linux hosts can answer.");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> Result<(), String> {
    use conformance_tests::oracle::Silicon;
    use conformance_tests::policy::Host;
    use conformance_tests::vectors::{FAMILIES, Provenance, record};

    let mut args = std::env::args().skip(1);
    let (Some(directory), Some(date)) = (args.next(), args.next()) else {
        return Err("usage: record DIRECTORY YYYY-MM-DD".into());
    };
    let mut silicon = Silicon::get().ok_or("this host cannot run 32-bit code")?;
    silicon.watch();
    let host = Host::probe(|code, before| silicon.run(code, before));
    let info = std::fs::read_to_string("/proc/cpuinfo").map_err(|e| e.to_string())?;
    let field = |name: &str| {
        let line = info.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
        line.and_then(|l| l.split(':').nth(1)).unwrap_or("unknown").trim()
    };
    let cpu = format!(
        "{} ({}, family {} model {} stepping {})",
        field("model name"),
        field("vendor_id"),
        field("cpu family"),
        field("model"),
        field("stepping")
    );
    for (n, family) in FAMILIES.iter().enumerate() {
        let from = Provenance { cpu: cpu.clone(), date: date.clone(), host };
        let bytes = record(family, from, 0x5EED + n as u64, &mut *silicon)?;
        let path = format!("{directory}/{}.zst", family.name);
        std::fs::write(&path, &bytes).map_err(|e| format!("{path}: {e}"))?;
        println!("{path}: {} cases, {} bytes", family.blocks * 1024, bytes.len());
    }
    Ok(())
}
