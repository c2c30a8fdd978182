use super::*;

fn result() -> Result {
    let mut time = Measure::less("time", "s");
    time.values(Side::Strata).extend([1.0, 2.0, 1.0]);
    time.values(Side::Qemu).extend([3.0, 4.0, 1.0]);
    Result {
        name: "row",
        about: "a <row>",
        measures: vec![time],
    }
}

#[test]
fn a_ratio_is_of_each_pair_and_above_one_where_strata_is_better() {
    assert_eq!(result().measures[0].ratio(), (2.0, 1.0, 3.0));
    let mut rate = Measure::more("rate", "MiB/s");
    rate.values(Side::Strata).push(10.0);
    rate.values(Side::Qemu).push(20.0);
    assert_eq!(rate.ratio(), (0.5, 0.5, 0.5));
}

#[test]
fn all_forms_show_the_row() {
    let rows = [result()];
    let parsed: serde_json::Value = serde_json::from_str(&json("here", 3, &rows)).unwrap();
    assert_eq!(parsed["rows"][0]["measures"][0]["ratio"]["max"], 3.0);
    let row = "| row | time, s | 1.00 (1.00 to 2.00) | 3.00 (1.00 to 4.00) | 2.00 (1.00 to 3.00) |";
    assert!(markdown("here", 3, &rows).contains(row));
    let plot = Plot {
        title: "a <plot>".to_owned(),
        x: "s",
        y: "us",
        lines: vec![Line {
            side: Side::Qemu,
            points: vec![(0.0, 1.0), (1.0, 10.0)],
        }],
    };
    let page = html("here", 3, &rows, &[plot]);
    assert!(page.contains("a &lt;row>") && page.contains("a &lt;plot>"));
    assert!(page.contains("60.0,260.0 580.0,40.0"));
}
