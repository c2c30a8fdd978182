//! What was measured, as a table, as JSON, and as a page with plots.

use crate::side::Side;
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::process::Command;

#[cfg(test)]
mod tests;

/// A number that both sides have.
#[derive(Clone, Debug)]
pub struct Measure {
    name: &'static str,
    unit: &'static str,
    more_is_better: bool,
    strata: Vec<f64>,
    qemu: Vec<f64>,
}

/// Median, least and most.
type Spread = (f64, f64, f64);

impl Measure {
    /// More of it is better.
    pub fn more(name: &'static str, unit: &'static str) -> Measure {
        Measure {
            name,
            unit,
            more_is_better: true,
            strata: Vec::new(),
            qemu: Vec::new(),
        }
    }

    /// Less of it is better.
    pub fn less(name: &'static str, unit: &'static str) -> Measure {
        Measure {
            more_is_better: false,
            ..Measure::more(name, unit)
        }
    }

    /// A side's values.
    pub fn values(&mut self, side: Side) -> &mut Vec<f64> {
        match side {
            Side::Strata => &mut self.strata,
            Side::Qemu => &mut self.qemu,
        }
    }

    /// The middle one of a side's values.
    pub fn median(&self, side: Side) -> f64 {
        let values = match side {
            Side::Strata => &self.strata,
            Side::Qemu => &self.qemu,
        };
        spread(values.iter().copied()).0
    }

    /// Of each pair, how many times better Strata was: above 1 it was.
    fn ratio(&self) -> Spread {
        let pairs = self.strata.iter().zip(&self.qemu);
        spread(pairs.map(|(strata, qemu)| {
            if self.more_is_better {
                strata / qemu
            } else {
                qemu / strata
            }
        }))
    }

    fn cells(&self) -> [String; 4] {
        let show = |(median, least, most): Spread| {
            format!("{} ({} to {})", short(median), short(least), short(most))
        };
        [
            format!("{}, {}", self.name, self.unit),
            show(spread(self.strata.iter().copied())),
            show(spread(self.qemu.iter().copied())),
            show(self.ratio()),
        ]
    }

    /// For people, in one line.
    pub fn line(&self) -> String {
        let [name, strata, qemu, ratio] = self.cells();
        format!("{name}: strata {strata}, qemu {qemu}; ratio {ratio}")
    }
}

/// A row of the table, measured.
pub struct Result {
    /// Its name.
    pub name: &'static str,
    /// What is measured.
    pub about: &'static str,
    /// The numbers.
    pub measures: Vec<Measure>,
}

/// Lines over a common axis.
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: &'static str,
    /// What the vertical axis counts; it is logarithmic.
    pub y: &'static str,
    /// What it compares.
    pub lines: Vec<Line>,
}

/// One line of a plot.
pub struct Line {
    /// Whose figures it shows.
    pub side: Side,
    /// Places on both axes, from left to right.
    pub points: Vec<(f64, f64)>,
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values[..] {
        [] => (f64::NAN, f64::NAN, f64::NAN),
        [least, ..] => (values[values.len() / 2], least, values[values.len() - 1]),
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Date, machine and rival.
pub fn place() -> String {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let text = text.unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}; {} x {}; Linux {}; {}; load average {}",
        run("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        std::thread::available_parallelism().map_or(1, usize::from),
        model.unwrap_or("unknown processor"),
        run("uname", &["-r"]),
        run("qemu-img", &["--version"]),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// All values.
pub fn json(place: &str, pairs: u32, results: &[Result]) -> String {
    let measure = |measure: &Measure| {
        let (median, least, most) = measure.ratio();
        json!({
            "name": measure.name,
            "unit": measure.unit,
            "more-is-better": measure.more_is_better,
            "strata": measure.strata,
            "qemu": measure.qemu,
            "ratio": {"median": median, "min": least, "max": most},
        })
    };
    let row = |row: &Result| {
        let measures: Vec<_> = row.measures.iter().map(measure).collect();
        json!({"name": row.name, "about": row.about, "measures": measures})
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    format!(
        "{:#}\n",
        json!({"place": place, "pairs": pairs, "rows": rows})
    )
}

/// The table, for a document.
pub fn markdown(place: &str, pairs: u32, results: &[Result]) -> String {
    let mut text = format!("{place}; {pairs} pairs; median (least to most)\n\n");
    text += "| row | measure | strata | qemu | ratio, above 1: strata is better |\n|---|---|---|---|---|\n";
    for row in results {
        for measure in &row.measures {
            text += &format!("| {} | {} |\n", row.name, measure.cells().join(" | "));
        }
    }
    text
}

/// The page, which needs nothing else.
pub fn html(place: &str, pairs: u32, results: &[Result], plots: &[Plot]) -> String {
    let mut page = String::from(
        "<!DOCTYPE html><meta charset=utf-8><title>Strata beside QEMU</title>\
         <style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}\
         svg{margin:1em}</style><h1>Strata beside QEMU</h1>",
    );
    page += &format!(
        "<p>{}; {pairs} pairs; median (least to most)</p>",
        escaped(place)
    );
    page += "<table><tr><th>row<th>measure<th>strata<th>qemu<th>ratio, above 1: strata is better";
    for row in results {
        for measure in &row.measures {
            let cells = measure.cells().map(|cell| escaped(&cell)).join("<td>");
            page += &format!(
                "<tr title=\"{}\"><td>{}<td>{cells}",
                escaped(row.about),
                row.name
            );
        }
    }
    page += "</table><p>Strata is blue, QEMU is orange.</p>";
    plots.iter().for_each(|plot| page += &svg(plot));
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

fn svg(plot: &Plot) -> String {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let (_, low, high) = spread(points().map(|point| point.1.max(1e-3)));
    let (_, left, right) = spread(points().map(|point| point.0));
    let x = |value: f64| 60.0 + 520.0 * (value - left) / (right - left).max(1e-9);
    let height = (high / low).ln().max(1e-9);
    let y = |value: f64| 260.0 - 220.0 * (value.max(1e-3) / low).ln() / height;
    let mut text = format!(
        "<svg width=620 height=310 xmlns=\"http://www.w3.org/2000/svg\"><text x=60 y=20>{}</text>\
         <path d=\"M60 40V260H580\" fill=none stroke=black /><text x=260 y=300>{}</text>\
         <text x=60 y=280>{}</text><text x=550 y=280>{}</text>\
         <text x=2 y=262>{}</text><text x=2 y=50>{}</text><text x=66 y=38>{}</text>",
        escaped(&plot.title),
        plot.x,
        short(left),
        short(right),
        short(low),
        short(high),
        plot.y,
    );
    for Line { side, points } in &plot.lines {
        let color = match side {
            Side::Strata => "#1f6fb4",
            Side::Qemu => "#e07b00",
        };
        text += &format!("<polyline fill=none stroke=\"{color}\" points=\"");
        for point in points {
            // Writing to a string does not fail.
            let _ = write!(text, "{:.1},{:.1} ", x(point.0), y(point.1));
        }
        text += "\" />";
    }
    text + "</svg>"
}
