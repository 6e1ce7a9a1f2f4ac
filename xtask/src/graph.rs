//! The crate graph: which workspace member may depend on which.
//!
//! The arrows keep each part testable alone: the CPU knows no device, the devices know no engine, and only
//! `host` puts them together. A new arrow is a design decision, so it has to be written down here.

use crate::run::{cargo, output};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Members each member may depend on, for any kind of dependency (normal, build, dev).
const ALLOWED: &[(&str, &[&str])] = &[
    ("emu-core", &[]),
    ("emu-devices", &["emu-core"]),
    ("emu-jit", &["emu-core"]),
    ("host", &["emu-core", "emu-jit", "emu-devices", "bios", "guest86"]),
    ("guest86", &[]),
    ("bios", &[]),
    ("conformance-tests", &["emu-core", "emu-jit", "emu-devices", "bios"]),
    ("benches", &["emu-core", "emu-jit", "emu-devices", "bios"]),
    ("xtask", &[]),
];

/// Members that use the standard library only.
const NO_DEPENDENCIES: &[&str] = &["bios"];

/// Dependencies of each member.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// What `cargo metadata` says about the workspace, without its dependencies' own manifests.
pub fn metadata() -> Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// Reads the graph from `cargo metadata`.
fn graph(metadata: &Value) -> Graph {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"]);
    packages
        .iter()
        .map(|package| (name(package), list(&package["dependencies"]).iter().map(name).collect()))
        .collect()
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (member, dependencies) in graph {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == member) else {
            found.push(format!("member {member} is not in the list of xtask/src/graph.rs"));
            continue;
        };
        for dependency in dependencies {
            if graph.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{member} must not depend on {dependency}"));
            }
        }
        if NO_DEPENDENCIES.contains(&member.as_str()) && !dependencies.is_empty() {
            found.push(format!("{member} must have no dependencies, it has {dependencies:?}"));
        }
    }
    found
}

/// Arrows of the workspace that are not allowed.
pub fn check() -> Result<Vec<String>> {
    Ok(violations(&graph(&metadata()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(member: &str, dependencies: &[&str]) -> Graph {
        let mut graph: Graph = ALLOWED.iter().map(|(name, _)| (name.to_string(), BTreeSet::new())).collect();
        graph.insert(member.into(), dependencies.iter().map(|name| name.to_string()).collect());
        graph
    }

    #[test]
    fn crate_graph_of_this_workspace_has_only_allowed_arrows() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn crate_graph_of_this_workspace_has_all_members() {
        let members: Vec<_> = graph(&metadata().unwrap()).into_keys().collect();
        for (name, _) in ALLOWED {
            assert!(members.iter().any(|member| member == name), "{name} is missing from {members:?}");
        }
    }

    #[test]
    fn extra_arrow_is_found() {
        assert_eq!(
            violations(&with("emu-jit", &["emu-core", "emu-devices"])),
            ["emu-jit must not depend on emu-devices"]
        );
        assert_eq!(violations(&with("xtask", &["host"])), ["xtask must not depend on host"]);
    }

    #[test]
    fn missing_arrow_and_foreign_crates_are_fine() {
        assert!(violations(&with("host", &["emu-core", "anyhow"])).is_empty());
    }

    #[test]
    fn dependency_of_bios_is_found() {
        assert_eq!(violations(&with("bios", &["anyhow"])).len(), 1);
    }

    #[test]
    fn unknown_member_is_found() {
        assert_eq!(violations(&with("extra", &[])).len(), 1);
    }

    #[test]
    fn graph_counts_dev_and_build_dependencies() {
        let metadata = json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}, {"name": "d", "kind": "build"}]}]});
        let names: Vec<_> = graph(&metadata)["a"].iter().cloned().collect();
        assert_eq!(names, ["b", "c", "d"]);
    }
}
