//! `benches interp`: the kernels on env86's engines and on v86.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::engines::env86::Env86Interpreter;
use crate::engines::v86::V86;
use crate::engines::{Engine, Sample};
use crate::image::Image;
use crate::kernels;
use crate::peers::V86Peer;
use crate::report::{Header, write_json};
use crate::table::{KernelResult, Report};

/// Options of `interp`.
#[derive(Args)]
pub struct Options {
    /// How often each kernel runs on each emulator
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this kernel
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only this engine of env86, and no other emulator
    #[arg(long, value_name = "ENGINE", value_parser = ["interp", "jit"])]
    engine: Option<String>,
    /// Write the results to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of npm's v86 instead of the one that `cargo xtask peers` installs
    #[arg(long, value_name = "DIR")]
    v86: Option<PathBuf>,
}

/// Runs the benchmark.
///
/// # Errors
/// An emulator fails or returns a wrong checksum; a missing one is left out.
pub fn run(options: &Options) -> Result<()> {
    let chosen = chosen(options.only.as_deref())?;
    let image = Image::new(kernels::ALL)?;
    let mut header = Header::new(options.rounds);
    let peer = header.peer(V86Peer::find(options.v86.as_deref()));

    let wanted = |name| options.engine.as_deref().is_none_or(|only| only == name);
    let mut engines: Vec<Box<dyn Engine + '_>> = Vec::new();
    if wanted("interp") {
        engines.push(Box::new(Env86Interpreter));
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if wanted("jit") {
        engines.push(Box::new(crate::engines::env86::Env86Jit));
    }
    ensure!(!engines.is_empty(), "there is no such engine for this host");
    if let (Some(peer), None) = (&peer, &options.engine) {
        engines.push(Box::new(V86::new(peer, false)));
        engines.push(Box::new(V86::new(peer, true)));
    }
    let samples = measure(&mut engines, &image, &chosen, options.rounds)?;
    let names: Vec<_> = engines.iter().map(|engine| engine.name()).collect();
    let results = chosen
        .iter()
        .zip(&samples)
        .map(|(&n, samples)| KernelResult::new(kernels::ALL[n].name, &names, samples))
        .collect::<Result<_>>()?;
    let report = Report::new(header, image.hash(), results);
    print!("{report}");
    options.json.as_deref().map_or(Ok(()), |file| write_json(file, &report))
}

/// Numbers of all kernels or of the one with that name. The image is the same in either case.
fn chosen(only: Option<&str>) -> Result<Vec<usize>> {
    let Some(name) = only else { return Ok((0..kernels::ALL.len()).collect()) };
    let names: Vec<_> = kernels::ALL.iter().map(|kernel| kernel.name).collect();
    let number = names.iter().position(|known| *known == name);
    let number = number.with_context(|| format!("there is no kernel {name:?}, only {}", names.join(", ")))?;
    Ok(vec![number])
}

/// Samples by kernel, engine and round. In each round every kernel runs on every engine in turn, so that a
/// change of the host's speed meets all of them.
fn measure(
    engines: &mut [Box<dyn Engine + '_>],
    image: &Image,
    chosen: &[usize],
    rounds: u32,
) -> Result<Vec<Vec<Vec<Sample>>>> {
    let mut samples = vec![vec![Vec::new(); engines.len()]; chosen.len()];
    for round in 1..=rounds {
        for (&n, by_engine) in chosen.iter().zip(&mut samples) {
            let kernel = &kernels::ALL[n];
            eprintln!("round {round} of {rounds}: {}", kernel.name);
            for (engine, list) in engines.iter_mut().zip(by_engine) {
                let name = engine.name();
                let sample = engine.run(image, n).with_context(|| format!("{} on {name}", kernel.name))?;
                ensure!(
                    sample.checksum == kernel.checksum(),
                    "{} on {name} returns {:08x} instead of {:08x}: the run is invalid",
                    kernel.name,
                    sample.checksum,
                    kernel.checksum()
                );
                list.push(sample);
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kernel_is_refused_with_the_list_of_names() {
        let error = chosen(Some("no")).err().unwrap().to_string();
        assert!(kernels::ALL.iter().all(|kernel| error.contains(kernel.name)), "{error}");
        assert_eq!(chosen(Some("fib")).unwrap(), [2]);
        assert_eq!(chosen(None).unwrap().len(), kernels::ALL.len());
    }
}
