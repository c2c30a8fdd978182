use super::*;

fn kernel(directory: &Path) -> Kernel {
    Kernel {
        path: directory.join("vmlinuz"),
        version: "6.1".to_owned(),
    }
}

#[test]
fn what_is_needed_comes_first_and_once() {
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("lib/modules/6.1");
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join("modules.dep"),
        "kernel/virtio_pci.ko: kernel/virtio-pci-modern-dev.ko kernel/virtio.ko kernel/virtio_ring.ko\n\
         kernel/virtio_blk.ko.xz: kernel/virtio.ko kernel/virtio_ring.ko\nkernel/virtio.ko: kernel/virtio_ring.ko\n\
         kernel/virtio_ring.ko:\n",
    )
    .unwrap();
    fs::write(
        directory.join("modules.builtin"),
        "kernel/fs/ext4/ext4.ko\n",
    )
    .unwrap();
    let kernel = kernel(top.path());
    let modules = Modules::open(&kernel).unwrap();
    let files = modules
        .needed(&kernel, &["virtio_pci", "virtio_blk", "ext4"])
        .unwrap();
    let names: Vec<_> = files
        .iter()
        .map(|file| file.strip_prefix(&directory).unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "kernel/virtio_ring.ko",
            "kernel/virtio.ko",
            "kernel/virtio-pci-modern-dev.ko",
            "kernel/virtio_pci.ko",
            "kernel/virtio_blk.ko.xz"
        ]
    );
    let error = modules.needed(&kernel, &["xfs"]).unwrap_err().to_string();
    assert!(
        error.starts_with("the kernel 6.1 has no xfs, neither built in nor in "),
        "{error}"
    );
}

#[test]
fn a_kernel_without_a_directory_has_everything_built_in() {
    let top = tempfile::tempdir().unwrap();
    let kernel = Kernel {
        version: "0.0.0-none".to_owned(),
        ..kernel(top.path())
    };
    let modules = Modules::open(&kernel).unwrap();
    assert_eq!(
        modules.needed(&kernel, &["virtio_pci"]).unwrap(),
        Vec::<PathBuf>::new()
    );
}
