//! `upgrade_snapshot`: what is kept of an instance's data while it is upgraded.

use super::{node::Node, scalars::parse_size};

/// How the copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotMode {
    /// A reflink where the file system can, else a copy.
    #[default]
    Auto,
    /// Every byte is written again.
    Copy,
    /// Shared blocks, or no upgrade.
    Reflink,
    /// None: the way back is on the data as the new container left it.
    Off,
}

/// What happens to an upgrade whose data is larger than a copy may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenTooLarge {
    /// It fails before anything is touched.
    #[default]
    Refuse,
    /// It goes on without a copy.
    Skip,
}

/// The setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// How.
    pub mode: SnapshotMode,
    /// Most bytes that are copied; a reflink has no limit.
    pub max_bytes: u64,
    /// What if there are more.
    pub when_too_large: WhenTooLarge,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            mode: SnapshotMode::default(),
            max_bytes: 10 << 30,
            when_too_large: WhenTooLarge::default(),
        }
    }
}

/// Reads the key out of the settings file's mapping.
pub(super) fn settings(node: &Node<'_>) -> SnapshotSettings {
    let default = SnapshotSettings::default();
    let Some(entry) = node.node("upgrade_snapshot") else { return default };
    let found = SnapshotSettings {
        mode: entry.parsed("mode", parse_mode).unwrap_or(default.mode),
        max_bytes: entry.parsed("max_size", parse_size).unwrap_or(default.max_bytes),
        when_too_large: entry
            .parsed("when_too_large", parse_when)
            .unwrap_or(default.when_too_large),
    };
    entry.finish();
    found
}

fn parse_mode(text: &str) -> Result<SnapshotMode, String> {
    match text {
        "auto" => Ok(SnapshotMode::Auto),
        "copy" => Ok(SnapshotMode::Copy),
        "reflink" => Ok(SnapshotMode::Reflink),
        // YAML reads a bare `off` as a truth value.
        "off" | "false" => Ok(SnapshotMode::Off),
        other => Err(format!("is {other:?}; it must be auto, copy, reflink or off")),
    }
}

fn parse_when(text: &str) -> Result<WhenTooLarge, String> {
    match text {
        "refuse" => Ok(WhenTooLarge::Refuse),
        "skip" => Ok(WhenTooLarge::Skip),
        other => Err(format!("is {other:?}; it must be refuse or skip")),
    }
}
