//! Compiles what runs first in a guest of `strata test`, static, so that it can be carried inside.
//!
//! With the compiler alone, since it has no dependencies: a build of its own by Cargo would want a
//! second target directory.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=init/src");
    println!("cargo::rustc-check-cfg=cfg(no_init)");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo says where")).join("strata-init");
    let compiled = Command::new(env::var_os("RUSTC").expect("Cargo says which"))
        .args([
            "--edition=2024",
            "--crate-name=strata_init",
            "-Cpanic=abort",
            "-Copt-level=s",
        ])
        .args([
            "-Ctarget-feature=+crt-static",
            "-Cstrip=symbols",
            "init/src/main.rs",
            "-o",
        ])
        .arg(&out)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("cargo::warning=no static program can be linked here: strata test will not work");
        fs::write(&out, []).expect("OUT_DIR can be written to");
    }
}
