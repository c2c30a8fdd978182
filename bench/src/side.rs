//! The two sides: Strata's programs, and QEMU's at their best setting.

use crate::chain::Chain;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use strata_tests::error::{Context, Failed, Outcome, ensure};
use strata_tests::image::Tool;
use strata_tests::qmp::Qmp;

/// Whose program is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Strata's.
    Strata,
    /// QEMU's.
    Qemu,
}

impl Side {
    /// The tool for images at rest.
    pub fn tool(self) -> Tool {
        match self {
            Side::Strata => Tool::StrataImg,
            Side::Qemu => Tool::QemuImg,
        }
    }
}

/// A process that serves a chain as the disk `d`, which is an NBD export of that name.
pub struct Server {
    child: Child,
    qmp: Qmp,
    /// Its NBD socket.
    pub socket: PathBuf,
}

impl Server {
    /// Starts it on the file `top`, which has the layers of `chain` below it but the topmost.
    pub fn start(side: Side, chain: &Chain, top: &Path, direct: bool) -> Outcome<Server> {
        let directory = top.parent().context("a file without a directory")?;
        let [socket, monitor] = ["nbd", "qmp"].map(|name| directory.join(name));
        for path in [&socket, &monitor] {
            // There is none at the first time.
            let _ = fs::remove_file(path);
        }
        let mut command = match side {
            Side::Strata => {
                let cache = if direct { "none" } else { "writeback" };
                let mut command = Command::new("strata");
                command.args(["serve", "--disk"]);
                command.arg(format!(
                    "file={},format=qcow2,id=d,cache={cache}",
                    top.display()
                ));
                let address = socket.display();
                command.arg("--export");
                command.arg(format!("type=nbd,disk=d,addr=unix:{address},writable=on"));
                command.args(["--qmp", &format!("unix:{}", monitor.display())]);
                command
            }
            Side::Qemu => {
                let mut command = Command::new("qemu-storage-daemon");
                command.arg("--chardev");
                let monitor = monitor.display();
                command.arg(format!("socket,id=c,path={monitor},server=on,wait=off"));
                command.args(["--monitor", "chardev=c"]);
                // Few layers are named one by one, for only so all of them use io_uring.
                let below = &chain.files[..chain.files.len() - 1];
                let named = if below.len() < 16 { below } else { &[] };
                let mut backing = None;
                for (number, file) in named.iter().enumerate() {
                    let node = blockdev(&format!("n{number}"), file, direct, true, backing);
                    command.args(["--blockdev", &node]);
                    backing = Some(format!("n{number}"));
                }
                let node = blockdev("d", top, direct, false, backing);
                command.args(["--blockdev", &node, "--nbd-server"]);
                command.arg(format!("addr.type=unix,addr.path={}", socket.display()));
                command.args(["--export", "nbd,id=e,node-name=d,name=d,writable=on"]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().context("starting a server")?;
        let qmp = match connect(&mut child, &monitor, &socket) {
            Ok(qmp) => qmp,
            Err(error) => {
                // It may have ended by itself, and then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Server { child, qmp, socket })
    }

    /// Merges all layers into the top one, until that is durable. Returns the seconds.
    pub fn flatten(&mut self, top: &Path) -> Outcome<f64> {
        let begin = Instant::now();
        let arguments = json!({"job-id": "job", "device": "d"});
        self.qmp.run("block-stream", arguments)?;
        let limit = Duration::from_secs(120);
        let ended = self.qmp.wait_event("BLOCK_JOB_COMPLETED", 0, limit)?;
        let error = &ended.value["data"]["error"];
        ensure(error.is_null(), || format!("the merge failed: {error}"))?;
        sync(top)?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Most memory that it has had, in MiB.
    pub fn peak_memory(&self) -> Outcome<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).context(&path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kib.context("no VmHWM")? / 1024.0)
    }

    /// Ends it in an orderly way.
    pub fn end(mut self) -> Outcome<()> {
        self.qmp.run("quit", json!({}))?;
        let status = self.child.wait().context("a server's end")?;
        ensure(status.success(), || format!("a server ended with {status}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where a row has failed; otherwise it has ended, and both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn blockdev(name: &str, file: &Path, direct: bool, ro: bool, backing: Option<String>) -> String {
    let cache = json!({"direct": direct, "no-flush": false});
    let file = json!({"driver": "file", "filename": file, "aio": "io_uring", "cache": cache, "read-only": ro});
    let mut node = json!({"node-name": name, "driver": "qcow2", "file": file, "cache": cache, "read-only": ro});
    match backing {
        Some(backing) => node["backing"] = backing.into(),
        None if ro => node["backing"] = serde_json::Value::Null,
        None => {}
    }
    node.to_string()
}

/// Connects to the monitor, and waits until the export is there, too.
fn connect(child: &mut Child, monitor: &Path, socket: &Path) -> Outcome<Qmp> {
    let end = Instant::now() + Duration::from_secs(20);
    let mut qmp = None;
    loop {
        if qmp.is_none() {
            qmp = Qmp::connect(monitor, Path::new("/dev/null")).ok();
        }
        if socket.exists()
            && let Some(qmp) = qmp.take()
        {
            return Ok(qmp);
        }
        if let Some(status) = child.try_wait().context("a server")? {
            return Err(Failed(format!("a server ended with {status}")));
        }
        ensure(Instant::now() < end, || {
            "a server has no monitor or no export after 20 s".to_owned()
        })?;
        sleep(Duration::from_millis(1));
    }
}

/// Makes a file durable.
pub fn sync(path: &Path) -> Outcome<()> {
    let file = File::open(path).context(path.display())?;
    file.sync_all().context(path.display())
}

/// Brings files into the page cache, or makes it forget them.
pub fn prepare_cache(files: &[PathBuf], direct: bool) -> Outcome<()> {
    for path in files {
        let mut file = File::open(path).context(path.display())?;
        if direct {
            file.sync_all().context(path.display())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .context(path.display())?;
        } else {
            std::io::copy(&mut file, &mut std::io::sink()).context(path.display())?;
        }
    }
    Ok(())
}

/// Touches memory, so that neither side pays for what the host has to bring back.
pub fn touch_memory(bytes: usize) {
    let memory = vec![1u8; bytes];
    std::hint::black_box(&memory);
}
