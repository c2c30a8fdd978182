//! Hosts that cannot run a guest: one clear line, exit status 126.

use crate::error::{Context, Outcome, ensure};
use crate::stage::Stage;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// `nobody`.
const NOBODY: u32 = 65534;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let kernel = stage.images.join("vmlinuz").display().to_string();
    // In a mount namespace of its own: nobody else misses /dev.
    let mut hidden = Command::new("unshare");
    let script = format!("mount -t tmpfs none /dev && exec strata run --kernel {kernel}");
    hidden.args(["-m", "sh", "-c", &script]);
    refused(stage, "no /dev/kvm", hidden, "does not exist")?;

    let mut denied = Command::new("strata");
    denied
        .args(["run", "--kernel", &kernel])
        .uid(NOBODY)
        .gid(NOBODY);
    refused(stage, "no right to use it", denied, "ermission")
}

fn refused(stage: &mut Stage, what: &str, mut command: Command, word: &str) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output().context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let is_right = output.status.code() == Some(126)
        && said.lines().count() == 1
        && ["/dev/kvm", word].iter().all(|word| said.contains(word));
    ensure(is_right, || format!("{what}: {}: {said}", output.status))?;
    stage.say("refused", said);
    stage.verified(what, "one clear line, exit status 126");
    Ok(())
}
