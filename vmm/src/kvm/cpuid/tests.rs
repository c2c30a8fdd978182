use super::*;

fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        ..Default::default()
    }
}

fn of(mut entry: kvm_cpuid_entry2, index: u8, count: u8) -> kvm_cpuid_entry2 {
    set_topology(&mut entry, index.into(), count.into());
    entry
}

#[test]
fn features_name_the_vcpu_and_the_hypervisor() {
    let mut host = entry(LEAF_FEATURES, 0);
    host.ebx = 0x0710_0800;
    let one = of(host, 0, 1);
    assert_eq!(one.ebx, 0x0001_0800);
    assert_eq!(one.ecx, ECX_HYPERVISOR);
    assert_eq!(one.edx & EDX_HTT, 0);
    let third = of(host, 2, 4);
    assert_eq!(third.ebx, 0x0204_0800);
    assert_eq!(third.edx & EDX_HTT, EDX_HTT);
}

#[test]
fn topology_has_threads_then_cores_then_nothing() {
    let thread = of(entry(LEAF_TOPOLOGY, 0), 2, 3);
    assert_eq!(
        (thread.eax, thread.ebx, thread.ecx, thread.edx),
        (0, 1, 0x100, 2)
    );
    let core = of(entry(LEAF_TOPOLOGY, 1), 2, 3);
    assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
    let end = of(entry(LEAF_TOPOLOGY, 2), 2, 3);
    assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, 2));
}

#[test]
fn only_the_last_level_cache_is_shared() {
    let mut l1 = entry(LEAF_CACHES, 0);
    l1.eax = 0xfc00_c021;
    assert_eq!(of(l1, 0, 4).eax, 0x0c00_0021);
    let mut l3 = entry(LEAF_CACHES, 3);
    l3.eax = 0x063;
    assert_eq!(of(l3, 0, 4).eax, 3 << 26 | 3 << 14 | 0x63);
    let end = entry(LEAF_CACHES, 4);
    assert_eq!(of(end, 0, 4).eax, 0, "the end of the list stays one");
}

#[test]
fn amd_counts_cores() {
    let mut sizes = entry(LEAF_AMD_SIZES, 0);
    sizes.ecx = 0x0003_700f;
    assert_eq!(of(sizes, 0, 4).ecx, 0x0003_2003);
    assert_eq!(of(entry(LEAF_AMD_TOPOLOGY, 0), 3, 4).eax, 3);
}
