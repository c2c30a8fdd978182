use super::*;

#[test]
fn a_line_without_our_words_gives_a_shell() {
    let params = Params::parse("console=ttyS0 quiet panic=-1").unwrap();
    assert_eq!(params.mode, Mode::Shell);
    assert_eq!(params.disks, ["vda", "sda"]);
}

#[test]
fn everything_is_parsed() {
    let params = Params::parse(
        "quiet strata.mode=write strata.disks=vda,sda strata.seed=9 strata.seconds=30 \
         strata.history=7:1,2;8:3,4",
    )
    .unwrap();
    assert_eq!(params.mode, Mode::Write);
    assert_eq!(params.disks, ["vda", "sda"]);
    assert_eq!(params.seed, 9);
    assert_eq!(params.seconds, Some(Duration::from_secs(30)));
    let runs = [
        Run {
            seed: 7,
            flushed: vec![1, 2],
        },
        Run {
            seed: 8,
            flushed: vec![3, 4],
        },
    ];
    assert_eq!(params.history, runs);
}

#[test]
fn mistakes_are_named() {
    for (line, part) in [
        ("strata.mode=wrote", "expected shell"),
        ("strata.mod=write", "unknown word"),
        ("strata.seed=-1", "not a number"),
        ("strata.history=7", "SEED:N"),
        ("strata.history=7:1,", "not a number"),
        (
            "strata.mode=write strata.disks=vda strata.seed=7 strata.history=7:1",
            "same seed",
        ),
    ] {
        let error = Params::parse(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
    }
}
