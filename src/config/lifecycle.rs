//! `lifecycle` and `binding_lifetime` of a plan: hooks, and how long what they make is valid.

use std::time::Duration;

use super::{node::Node, scalars::parse_duration};
use crate::catalog::{Action, Hook, Lifecycle, Script};

/// Linux takes no argument that is longer.
const MAX_TEXT_BYTES: usize = 128 * 1024 - 1;
/// Much longer than a client waits, and a hook that hangs blocks those behind it.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);

/// Reads the key out of a plan's mapping.
pub(super) fn lifecycle(plan: &Node<'_>) -> Lifecycle {
    if !plan.has("lifecycle") {
        return Lifecycle::default();
    }
    if !plan.is_mapping("lifecycle") {
        if plan.string("lifecycle").is_some_and(|word| word != "image") {
            plan.error("lifecycle", "must be image, or a mapping of actions to scripts");
        }
        return Lifecycle::of_image();
    }
    let Some(node) = plan.node("lifecycle") else { return Lifecycle::default() };
    let timeouts = node.is_mapping("timeout").then(|| node.node("timeout")).flatten();
    let of_all = if timeouts.is_none() { node.parsed("timeout", parse_timeout) } else { None };
    let hook = |action: Action| {
        let key = action.as_str();
        let own = timeouts.as_ref().and_then(|timeouts| timeouts.parsed(key, parse_timeout));
        let script = node.parsed(key, parse_script)?;
        Some(Hook { script, timeout: own.or(of_all).unwrap_or_else(|| action.default_timeout()) })
    };
    let found = Lifecycle {
        provision: hook(Action::Provision),
        update: hook(Action::Update),
        bind: hook(Action::Bind),
        unbind: hook(Action::Unbind),
        deprovision: hook(Action::Deprovision),
        migrate: hook(Action::Migrate),
        user: node.string("user").filter(|user| !user.is_empty()),
    };
    if node.has("bind") != node.has("unbind") {
        let (there, missing) =
            if node.has("bind") { ("bind", "unbind") } else { ("unbind", "bind") };
        node.error(missing, format!("is missing; {there} needs it: what one makes the other ends"));
    }
    for action in Action::ALL {
        let key = action.as_str();
        let timed = timeouts.as_ref().is_some_and(|timeouts| timeouts.has(key));
        if timed && !node.has(key) {
            node.error("timeout", format!("names {key}, for which there is no hook"));
        }
    }
    if let Some(timeouts) = timeouts {
        timeouts.finish();
    }
    node.finish();
    found
}

/// Reads the key out of a plan's mapping.
pub(super) fn binding_lifetime(plan: &Node<'_>, lifecycle: &Lifecycle) -> Option<Duration> {
    let lifetime = plan.parsed("binding_lifetime", parse_duration)?;
    if lifetime.as_secs() == 0 {
        plan.error("binding_lifetime", "must be at least one second");
    }
    if lifecycle.bind.is_none() || lifecycle.unbind.is_none() {
        plan.error(
            "binding_lifetime",
            "needs lifecycle.bind and lifecycle.unbind: without them nothing ends a credential",
        );
    }
    Some(lifetime)
}

fn parse_script(text: &str) -> Result<Script, String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.contains('\0') || text.len() > MAX_TEXT_BYTES {
        return Err(format!("must be a text of at most {MAX_TEXT_BYTES} bytes without NUL"));
    }
    // A text may begin with a path as well: `/usr/bin/env` with arguments, or several lines.
    let is_path = text.starts_with('/') && !text.contains(char::is_whitespace);
    Ok(if is_path { Script::Path(text.to_owned()) } else { Script::Text(text.to_owned()) })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(format!("is {text:?}; it must be more than nothing and at most a day"));
    }
    Ok(timeout)
}
