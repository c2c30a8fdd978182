//! The keys `throttling.*` of `--disk`, named as QEMU names them.

use strata_block::engine::{Limit, Limits, Throttling};

/// What the keys begin with.
pub(super) const PREFIX: &str = "throttling.";

/// Sets `key`, without its prefix.
///
/// # Errors
/// No such key, or no such value.
pub(super) fn set(throttling: &mut Throttling, key: &str, value: &str) -> Result<(), String> {
    if key == "group" {
        throttling.group = Some(value.to_owned());
        return Ok(());
    }
    let unknown = || {
        format!(
            "unknown key '{PREFIX}{key}'; known keys: {PREFIX}bps-total, -read, -write and \
             {PREFIX}iops-total, -read, -write, each also with -max and -max-length; \
             {PREFIX}iops-size, {PREFIX}group"
        )
    };
    let place = place(throttling, key).ok_or_else(unknown)?;
    *place = value
        .parse()
        .map_err(|_| format!("{PREFIX}{key}={value}: expected a number"))?;
    Ok(())
}

/// Where the number of `key` goes.
fn place<'a>(throttling: &'a mut Throttling, key: &str) -> Option<&'a mut u64> {
    let all = &mut throttling.limits;
    let (unit, rest) = key.split_once('-')?;
    let limits: &mut Limits = match (unit, rest) {
        ("iops", "size") => return Some(&mut all.request_size),
        ("bps", _) => &mut all.bytes,
        ("iops", _) => &mut all.requests,
        _ => return None,
    };
    let (way, rest) = rest.split_once('-').unwrap_or((rest, ""));
    let limit: &mut Limit = match way {
        "total" => &mut limits.total,
        "read" => &mut limits.read,
        "write" => &mut limits.write,
        _ => return None,
    };
    match rest {
        "" => Some(&mut limit.average),
        "max" => Some(&mut limit.burst),
        "max-length" => Some(&mut limit.burst_seconds),
        _ => None,
    }
}

/// Whether it all goes together.
///
/// # Errors
/// Why not.
pub(super) fn check(throttling: &Throttling) -> Result<(), String> {
    let failed = |why| format!("throttling: {why}");
    throttling.limits.check().map_err(failed)?;
    match &throttling.group {
        Some(group) if !throttling.limits.is_set() => Err(format!(
            "{PREFIX}group={group}: a limit is missing, such as {PREFIX}bps-total=N; those of the \
             group's last disk count for all of it"
        )),
        _ => Ok(()),
    }
}
