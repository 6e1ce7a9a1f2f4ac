//! npm's v86 under Node, with its interpreter or its translation to WebAssembly.

use anyhow::{Context, Result};

use super::{Engine, Sample};
use crate::image::{Image, RAM};
use crate::peers::V86Peer;
use crate::workspace;

/// v86 in a Node process of its own for each run.
pub struct V86<'a> {
    peer: &'a V86Peer,
    jit: bool,
}

impl<'a> V86<'a> {
    /// v86 with or without its JIT.
    pub fn new(peer: &'a V86Peer, jit: bool) -> Self {
        Self { peer, jit }
    }
}

impl Engine for V86<'_> {
    fn name(&self) -> &'static str {
        if self.jit { "v86 JIT" } else { "v86 interpreter" }
    }

    fn run(&mut self, image: &Image, kernel: usize) -> Result<Sample> {
        let mut node = self.peer.node(&workspace::root().join("benches/js/kernels.mjs"));
        node.arg("--image").arg(image.file.path());
        node.args(["--kernel", &kernel.to_string(), "--ram", &RAM.to_string()]);
        if !self.jit {
            node.arg("--no-jit");
        }
        let answer = workspace::output(&mut node)?;
        serde_json::from_str(&answer).with_context(|| format!("v86 answered {answer:?}"))
    }
}
