//! Images at rest, as other tools see them.

use crate::error::{Context, Failed, Outcome};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Which program examines an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The reference.
    QemuImg,
    /// Ours.
    StrataImg,
}

impl Tool {
    /// Both.
    pub const ALL: [Tool; 2] = [Tool::QemuImg, Tool::StrataImg];

    /// Its name on the `PATH`.
    pub fn name(self) -> &'static str {
        match self {
            Tool::QemuImg => "qemu-img",
            Tool::StrataImg => "strata-img",
        }
    }

    fn output(self, args: &[&str]) -> Outcome<Output> {
        Command::new(self.name())
            .args(args)
            .output()
            .context(self.name())
    }

    /// Runs it; it must succeed. Returns its standard output.
    pub fn run(self, args: &[&str]) -> Outcome<String> {
        let output = self.output(args)?;
        if !output.status.success() {
            return Err(self.failed(args, &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn failed(self, args: &[&str], output: &Output) -> Failed {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        let (name, args) = (self.name(), args.join(" "));
        Failed(format!("{name} {args}: {}: {}", output.status, said.trim()))
    }

    /// Creates an empty image of `size` (bytes, or with a suffix).
    pub fn create(self, path: &Path, format: &str, size: &str) -> Outcome<()> {
        self.run(&["create", "-f", format, text(path)?, size])
            .map(drop)
    }

    /// `check` of a qcow2 image: it must find no error. Returns the number of leaked clusters.
    pub fn check(self, path: &Path) -> Outcome<u64> {
        let args = ["check", "-f", "qcow2", "--output=json", text(path)?];
        let output = self.output(&args)?;
        // 0: nothing found; 3: leaked clusters, and nothing worse.
        if !matches!(output.status.code(), Some(0 | 3)) {
            return Err(self.failed(&args, &output));
        }
        let result: Value =
            serde_json::from_slice(&output.stdout).context("check --output=json")?;
        let count = |key: &str| result[key].as_u64().unwrap_or(0);
        if count("corruptions") + count("check-errors") > 0 {
            return Err(self.failed(&args, &output));
        }
        Ok(count("leaks"))
    }

    /// The files of a chain and their formats, topmost first, as `info --backing-chain` shows them.
    pub fn chain(self, path: &Path) -> Outcome<Vec<(PathBuf, String)>> {
        let args = [
            "info",
            "-f",
            "qcow2",
            "--backing-chain",
            "--output=json",
            text(path)?,
        ];
        let layers: Value = serde_json::from_str(&self.run(&args)?).context("info")?;
        let layers = layers
            .as_array()
            .context("info --backing-chain gives no list")?;
        let entry = |layer: &Value| {
            let word = |key: &str| layer[key].as_str().unwrap_or_default().to_owned();
            (PathBuf::from(word("filename")), word("format"))
        };
        Ok(layers.iter().map(entry).collect())
    }
}

/// A path as text.
pub fn text(path: &Path) -> Outcome<&str> {
    path.to_str()
        .context(format!("{}: not UTF-8", path.display()))
}

/// Bytes that a file takes on its file system.
pub fn allocated(path: &Path) -> Outcome<u64> {
    Ok(fs::metadata(path).context(path.display())?.blocks() * 512)
}

/// Fails unless two files hold the same bytes.
pub fn same_bytes(a: &Path, b: &Path) -> Outcome<()> {
    let open = |path: &Path| File::open(path).context(path.display());
    let (mut file_a, mut file_b) = (open(a)?, open(b)?);
    let (mut chunk_a, mut chunk_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let count = fill(&mut file_a, &mut chunk_a).context(a.display())?;
        let other = fill(&mut file_b, &mut chunk_b).context(b.display())?;
        if chunk_a[..count] != chunk_b[..other] {
            let message = format!("{} and {} differ", a.display(), b.display());
            return Err(Failed(format!("{message} in the MiB at byte {offset}")));
        }
        if count == 0 {
            return Ok(());
        }
        offset += count;
    }
}

fn fill(file: &mut File, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < chunk.len() {
        match file.read(&mut chunk[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
