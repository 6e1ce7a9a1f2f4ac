//! Flags about what executes the guest's instructions, and about seeing what it does.

use clap::{Args, ValueEnum};
use emu_jit::{Level, Options, Parts};

use crate::config::{Engine, Translator};

/// What executes instructions, as a flag.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineArg {
    /// Interpreter
    Interp,
    /// Translation to host code
    Jit,
}

impl From<EngineArg> for Engine {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Interp => Self::Interp,
            EngineArg::Jit => Self::Jit,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum JitArg {
    /// Nothing is translated: the interpreter
    Off,
    /// Each instruction becomes a call of the interpreter's function
    Calls,
    /// Blocks are translated and not linked
    T1,
    /// Everything
    On,
}

/// These flags.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineArgs {
    /// What executes the guest's instructions [default: jit where there is one]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineArg>,

    /// How much the translator does [default: on]
    #[arg(long, value_name = "LEVEL", conflicts_with = "engine")]
    jit: Option<JitArg>,

    /// Switch parts of the translator off, to see which is to blame: links, fpu, ... (docs/engine.md)
    #[arg(long, value_name = "PARTS", value_parser = Parts::parse)]
    jit_without: Option<Parts>,

    /// Translate a block when it is executed for the Nth time, or never [default: 8]
    #[arg(long, value_name = "N", value_parser = threshold)]
    jit_threshold: Option<u16>,

    /// Translate a block together with what follows it when the run loop has entered it more than N times, or never
    /// [default: 8]
    #[arg(long, value_name = "N", value_parser = region_threshold)]
    jit_region_threshold: Option<u16>,

    /// Fill whatever the translator takes for dead with garbage
    #[arg(long, hide = true)]
    jit_poison: bool,

    /// Check emitted code
    #[arg(long, hide = true)]
    jit_verify: bool,

    /// Print what the engine has done at the end
    #[arg(long)]
    pub(super) stats: bool,

    /// Write names of translated blocks to /tmp/perf-PID.map for Linux perf
    #[arg(long)]
    perf_map: bool,
}

/// A threshold.
fn threshold(text: &str) -> Result<u16, String> {
    if text == "never" {
        return Ok(Options::NEVER);
    }
    match text.parse() {
        Ok(n) if (1..Options::NEVER).contains(&n) => Ok(n),
        _ => Err(format!("not a number from 1 to {} or never", Options::NEVER - 1)),
    }
}

/// The same, from 0 on.
fn region_threshold(text: &str) -> Result<u16, String> {
    if text == "0" { Ok(0) } else { threshold(text) }
}

impl EngineArgs {
    /// The engine, if chosen.
    pub(super) fn engine(&self) -> Option<Engine> {
        match (self.engine, self.jit) {
            (Some(engine), _) => Some(engine.into()),
            (None, Some(JitArg::Off)) => Some(Engine::Interp),
            (None, Some(_)) => Some(Engine::Jit),
            (None, None) => None,
        }
    }

    /// How the translator works.
    pub(super) fn translator(&self) -> Translator {
        let mut options = Options::level(match self.jit {
            Some(JitArg::Calls) => Level::Calls,
            Some(JitArg::T1) => Level::T1,
            _ => Level::On,
        });
        if let Some(parts) = self.jit_without {
            options.without = options.without.and(parts);
        }
        options.threshold = self.jit_threshold.unwrap_or(options.threshold);
        options.region_threshold = self.jit_region_threshold.unwrap_or(options.region_threshold);
        options.poison = self.jit_poison;
        options.verify |= self.jit_verify;
        options.count = self.stats;
        Translator { options, perf_map: self.perf_map }
    }
}
