use std::io;

use kvm_bindings::kvm_regs;

use super::*;

#[test]
fn errors_of_opening_are_told_apart() {
    let of = |errno| classify(io::Error::from_raw_os_error(errno));
    assert!(matches!(of(2), Unusable::Missing));
    assert!(matches!(of(13), Unusable::NoPermission));
    assert!(matches!(of(19), Unusable::Open(_)));
}

#[test]
fn every_reason_is_one_line() {
    let reasons = [
        Unusable::Missing,
        Unusable::NoPermission,
        Unusable::Open(io::Error::from_raw_os_error(19)),
        Unusable::Version(11),
        Unusable::Lacks(vec!["KVM_CAP_IRQFD", "KVM_CAP_PIT2"]),
        Unusable::NoUserMode("why".into()),
    ];
    for reason in reasons {
        let text = reason.to_string();
        assert!(text.contains("/dev/kvm"), "{text}");
        assert!(!text.contains('\n') && !text.contains("  "), "{text}");
    }
}

#[test]
fn only_a_system_call_from_user_mode_into_the_kernel_counts() {
    let good = kvm_regs {
        rbx: 0x23,
        rcx: 0x9004,
        ..Default::default()
    };
    assert_eq!(guest::judge(0x08, &good), Ok(()));
    assert!(guest::judge(0x23, &good).is_err(), "stayed in user mode");
    let never_left = kvm_regs { rbx: 0x08, ..good };
    assert!(guest::judge(0x08, &never_left).is_err());
    let jumped = kvm_regs { rcx: 0, ..good };
    assert!(guest::judge(0x08, &jumped).is_err());
}

#[test]
fn the_probe_ends_in_bounded_time_with_an_answer() {
    // On a host without KVM this says Missing, on others the probe really runs; either must end.
    let answer = thread::spawn(|| open().map(drop));
    let answer = answer.join().unwrap();
    if let Err(reason) = answer {
        assert!(!reason.to_string().is_empty());
    }
}
