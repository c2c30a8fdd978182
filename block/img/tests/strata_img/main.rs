//! `strata-img` beside `qemu-img`: the same options give the same output and exit codes.

#![allow(clippy::unwrap_used)]

mod amend;
mod any_name;
mod bad_input;
mod bench;
mod bitmap;
mod cache_modes;
mod commit;
mod compare;
mod convert;
mod convert_ways;
mod data_file;
mod dd;
mod descriptors;
mod device;
mod encrypted;
mod features;
mod hints;
mod itself;
mod locks;
mod longer_target;
#[path = "../../../storage/src/lossy.rs"]
#[allow(dead_code)] // Of what it offers these tests need a part.
mod lossy;
mod lossy_target;
mod measure;
mod names;
mod on_devices;
mod options;
mod preallocation;
mod rebase;
mod refusals;
mod repair;
mod repair_tables;
mod resize;
mod same_commands;
mod same_output;
mod server;
mod snapshot;
mod target_opts;
mod words;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A directory with images.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program in the directory.
    fn run(&self, program: &str, args: &[&str]) -> Output {
        let program = if program == "strata-img" {
            env!("CARGO_BIN_EXE_strata-img")
        } else {
            program
        };
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        command.output().unwrap()
    }

    /// Runs a program that has to succeed.
    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        text(&output.stdout)
    }

    fn qemu(&self, args: &[&str]) -> String {
        self.ok("qemu-img", args)
    }

    fn qemu_io(&self, image: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(image);
        self.ok("qemu-io", &args);
    }

    /// Changes bytes of a file.
    fn poke(&self, name: &str, offset: usize, bytes: &[u8]) {
        let path = self.path(name);
        let mut content = std::fs::read(&path).unwrap();
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, content).unwrap();
    }

    /// A big-endian number in a file.
    fn peek(&self, name: &str, offset: usize) -> u64 {
        let content = std::fs::read(self.path(name)).unwrap();
        u64::from_be_bytes(content[offset..offset + 8].try_into().unwrap())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
