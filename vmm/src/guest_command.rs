//! `strata test`: a command in a guest that exists for it alone.
//!
//! The guest boots with an initramfs that is made here ([`initramfs`]). Its first program, which is
//! carried inside this one, runs the command; streams and exit status travel over the second serial
//! port ([`channel`]), apart from what the kernel says on the first.

mod channel;
#[path = "../init/src/frame.rs"]
mod frame;
mod initramfs;
mod kernel;
mod modules;
mod results;
mod root_kind;
mod unpacked;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Instant,
};

use rustix::termios::tcgetwinsize;
use strata_devices::ide::Media;

use self::{
    channel::Link, initramfs::Initramfs, kernel::Kernel, modules::Modules, results::Results,
};
use crate::{
    cli::{
        RunArgs, disk::Interface, ending::EndingArgs, serial::SerialEndpoint, state::StateArgs,
        test::TestArgs,
    },
    machine::{self, Ended, RawTerminal, RunError, Transcript},
    run_result::RunResult,
};

/// Why a command could not be run in a guest; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The host has no kernel that could be taken.
    #[error("no kernel was found in /boot: give one with --kernel FILE")]
    NoKernel,
    /// There are kernels, and none that this user may read.
    #[error(
        "could not open '{}': {source}: have it made readable (sudo chmod a+r '{}'), or give another kernel with \
         --kernel FILE", path.display(), path.display()
    )]
    KernelNotReadable {
        /// The one that would be booted.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// A file that is needed.
    #[error("could not {what} '{}': {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The kernel lacks a driver.
    #[error("the kernel {version} has no {module}, neither built in nor in '{}'", directory.display())]
    NoModule {
        /// The kernel's version.
        version: String,
        /// The module.
        module: String,
        /// Where modules were looked for.
        directory: PathBuf,
    },
    /// No file system is known on the root disk.
    #[error("--root: no file system that is known was found on '{}' (ext2 to ext4, XFS, Btrfs, squashfs, ISO 9660)", .0.display())]
    NoFileSystem(PathBuf),
    /// The root disk.
    #[error("--root: {0}")]
    Root(strata_storage::error::Error),
    /// This program was built without its guest's part.
    #[error(
        "this program was built where no static program can be linked, and has nothing to run in a guest"
    )]
    NoInit,
    /// Everything that a guest needs.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Names what was tried with a file.
fn file_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> TestError {
    let path = path.into();
    move |source| TestError::File { what, path, source }
}

/// Runs the command; what came of it. `begin` is the program's start.
pub fn run(args: &TestArgs, begin: Instant) -> RunResult {
    let transcript = Transcript::default();
    let (kernel, ended) = match Kernel::find(args.kernel.as_deref()) {
        Ok(kernel) => {
            let ended = boot(args, &kernel, &transcript, begin);
            (Some(kernel.path), ended)
        }
        Err(error) => (args.kernel.clone(), Err(error)),
    };
    let ended = ended.map_err(|error| match error {
        TestError::Run(error) => error,
        other => RunError::Command(Box::new(other)),
    });
    RunResult::of_command(kernel.as_deref(), ended, &transcript, begin)
}

fn boot(
    args: &TestArgs,
    kernel: &Kernel,
    transcript: &Transcript,
    begin: Instant,
) -> Result<Ended, TestError> {
    let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let size = on_terminal
        .then(|| tcgetwinsize(io::stdout()).ok())
        .flatten();
    let results = args.out.as_deref().map(Results::create).transpose()?;
    let modules = Modules::open(kernel)?;
    let mut initramfs = Initramfs::new()?;
    if let Some(size) = size {
        initramfs.plan("terminal", format!("{}x{}", size.ws_row, size.ws_col));
        if let Some(kind) = std::env::var_os("TERM") {
            initramfs.plan_environment("TERM", &kind);
        }
    }
    let needed = needed_modules(args, &mut initramfs)?;
    if modules.are_missing() {
        for name in &needed {
            initramfs.plan("built-in", name);
        }
    }
    initramfs.add_modules(&modules.needed(kernel, &needed)?)?;
    for share in &args.shares {
        initramfs.add_share(share)?;
    }
    if results.is_some() {
        initramfs.plan("out", "");
    }
    initramfs.plan_command(&args.command);
    let initrd = initramfs.finish()?;

    // Until the end of this function, which is that of the guest.
    let _raw = on_terminal.then(RawTerminal::enter).transpose();
    let link = Link::new(results, on_terminal).map_err(file_error("make", "a pair of sockets"))?;
    let run = run_args(args, kernel, initrd.path());
    let port = link.into_port();
    let ended = machine::run_with(&run, &SerialEndpoint::None, transcript, begin, Some(port))?;
    Ok(ended)
}

/// What the guest's kernel has to have for its disks.
fn needed_modules(
    args: &TestArgs,
    initramfs: &mut Initramfs,
) -> Result<Vec<&'static str>, TestError> {
    let mut needed = Vec::new();
    let disks = || args.root.iter().chain(&args.disks);
    let ide = |media| disks().any(|disk| disk.interface == Interface::Ide && disk.media == media);
    if disks().any(|disk| disk.interface == Interface::Virtio) {
        needed.extend(["virtio_pci", "virtio_blk"]);
    }
    if ide(Media::Disk) {
        needed.extend(["ata_piix", "sd_mod"]);
    }
    if ide(Media::Cdrom) {
        needed.extend(["ata_piix", "sr_mod"]);
    }
    if let Some(root) = &args.root {
        let kind = match root.interface {
            Interface::Ide => "ide",
            Interface::Virtio | Interface::None => "virtio",
        };
        initramfs.plan("root", kind);
        for kind in root_kind::find(root)? {
            needed.push(kind.module());
            initramfs.plan("file-system", kind.name());
        }
    }
    Ok(needed)
}

/// The machine for the command.
fn run_args(args: &TestArgs, kernel: &Kernel, initrd: PathBuf) -> RunArgs {
    RunArgs {
        kernel: Some(kernel.path.clone()),
        initrd: Some(initrd),
        firmware: None,
        append: format!("console=ttyS0 panic=-1 {}", args.append),
        machine: args.machine.clone(),
        disks: args.root.iter().chain(&args.disks).cloned().collect(),
        temporary: args.temporary.clone(),
        state: StateArgs::default(),
        serial: Some(SerialEndpoint::None),
        monitors: Vec::new(),
        qmps: Vec::new(),
        test_device: false,
        paused: false,
        ending: EndingArgs::of_command(args.timeout),
        report: args.report.clone(),
    }
}
