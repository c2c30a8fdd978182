//! What a recipe's reader has around it: a kernel tree, images, and programs that a test host
//! lacks.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::program;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Passes on a command for the test host, whose files of `/job` are in `tree`.
const TEST_HOST: &str = r#"#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
count=$#
for word; do
    case $word in
        /job/*) set -- "$@" "tree$word" ;;
        *) set -- "$@" "$word" ;;
    esac
done
shift "$count"
exec "$@"
"#;

const NOTHING: &str = "#!/bin/sh\nexit 0\n";

/// The version in the name of the kernel's modules.
pub fn kernel_version(fixture: &Fixture) -> Outcome<String> {
    let modules = fixture.images.join("lib/modules");
    let mut entries = fs::read_dir(&modules).context(modules.display())?;
    let entry = entries.next().context("no modules")?.context("modules")?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Makes all of it in the fixture's directory.
pub fn make(fixture: &Fixture) -> Outcome<()> {
    let version = kernel_version(fixture)?;
    let kernel = fixture.images.join("vmlinuz");
    let dir = |name: &str| {
        let path = fixture.dir.join(name);
        fs::create_dir_all(&path).context(name)?;
        Ok(path)
    };
    symlink(&kernel, dir("arch/x86/boot")?.join("bzImage")).context("bzImage")?;
    symlink(&kernel, fixture.dir.join("bzImage")).context("bzImage")?;
    for name in ["one", "other"] {
        let file = dir(&format!("kernels/{name}/boot"))?.join(format!("vmlinuz-{version}"));
        symlink(&kernel, file).context("kernels")?;
    }
    fs::write(dir("conf")?.join("mine.conf"), "mine\n").context("conf")?;
    host_kernel(fixture, &version)?;
    initrd(&dir("initrd")?, fixture)?;
    image(&dir("root")?, fixture)?;
    // Of Strata's own tree, and of the machine.
    for (name, text) in [
        ("stand-ins/sudo", NOTHING),
        ("stand-ins/cargo", NOTHING),
        ("strata/ci/setup", NOTHING),
        ("strata/guest-images/build", NOTHING),
        ("strata/ci/testhost", TEST_HOST),
    ] {
        let path = fixture.dir.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&fixture.dir)).context(name)?;
        program_file(&path, text)?;
    }
    Ok(())
}

/// A test host has no `/boot`: gives it the kernel that it runs.
fn host_kernel(fixture: &Fixture, version: &str) -> Outcome<()> {
    if Path::new("/boot").exists() {
        return Ok(());
    }
    fs::create_dir("/boot").context("/boot")?;
    let file = format!("/boot/vmlinuz-{version}");
    symlink(fixture.images.join("vmlinuz"), &file).context(file)?;
    fs::create_dir_all("/lib").context("/lib")?;
    symlink(fixture.images.join("lib/modules"), "/lib/modules").context("/lib/modules")
}

/// An initramfs whose program prints that it ran, and powers off.
fn initrd(tree: &Path, fixture: &Fixture) -> Outcome<()> {
    busybox(tree)?;
    let init = "#!/bin/sh\necho the initrd\\'s program ran\n/bin/busybox poweroff -f\n";
    program_file(&tree.join("init"), init)?;
    let pack = format!(
        "cd '{}' && find . | cpio -o -H newc > '{}'",
        tree.display(),
        fixture.dir.join("initrd.img").display()
    );
    succeeds("sh", &["-c", &pack])
}

/// A file system that looks as a distribution's does.
fn image(tree: &Path, fixture: &Fixture) -> Outcome<()> {
    busybox(tree)?;
    for directory in ["etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(tree.join(directory)).context("root")?;
    }
    fs::write(tree.join("etc/os-release"), "PRETTY_NAME=\"Small Linux\"\n").context("root")?;
    for program in ["cat", "cp", "ls"] {
        symlink("busybox", tree.join("bin").join(program)).context(program)?;
    }
    let raw = fixture.dir.join("base.raw");
    Tool::QemuImg.create(&raw, "raw", "32M")?;
    let name = |path: &Path| path.display().to_string();
    succeeds(
        "mke2fs",
        &["-q", "-t", "ext4", "-d", &name(tree), &name(&raw)],
    )?;
    let image = fixture.dir.join("debian.qcow2");
    succeeds(
        "qemu-img",
        &["convert", "-O", "qcow2", &name(&raw), &name(&image)],
    )
}

fn busybox(tree: &Path) -> Outcome<()> {
    fs::create_dir_all(tree.join("bin")).context("bin")?;
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox")?;
    symlink("busybox", tree.join("bin/sh")).context("busybox")
}

fn program_file(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).context(path.display())?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).context(path.display())
}

fn succeeds(name: &str, args: &[&str]) -> Outcome<()> {
    let ended = program::run(name, args, LIMIT)?;
    ensure(ended.code == Some(0), || format!("{name}: {ended:?}"))
}
