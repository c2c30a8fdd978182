//! Hosts that cannot run a guest: one clear line, exit status 126.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// `nobody`.
const NOBODY: u32 = 65534;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture.images.join("vmlinuz").display().to_string();
    // In a mount namespace of its own: nobody else misses /dev.
    let mut hidden = Command::new("unshare");
    let script = format!("mount -t tmpfs none /dev && exec strata run --kernel {kernel}");
    hidden.args(["-m", "sh", "-c", &script]);
    refused(fixture, "no /dev/kvm", hidden, "does not exist")?;

    let mut denied = Command::new("strata");
    denied
        .args(["run", "--kernel", &kernel])
        .uid(NOBODY)
        .gid(NOBODY);
    refused(fixture, "no right to use it", denied, "ermission")
}

fn refused(fixture: &mut Fixture, what: &str, mut command: Command, word: &str) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output().context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let is_right = output.status.code() == Some(126)
        && said.lines().count() == 1
        && ["/dev/kvm", word].iter().all(|word| said.contains(word));
    ensure(is_right, || format!("{what}: {}: {said}", output.status))?;
    fixture.say("refused", said);
    fixture.verified(what, "one clear line, exit status 126");
    Ok(())
}
