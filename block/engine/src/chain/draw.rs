//! A chain as people see it: its layers from the top down, and a strip for each that shows where
//! it has data.

use std::fmt::Write;

use super::{ChainInfo, ChainLayer};
use crate::size::human_size;

/// A strip is no longer than that: wider ones say no more.
const LONGEST: usize = 128;
/// What stands before a layer's lines.
const INDENT: usize = 4;

/// A chain in lines of `width` columns, from 20 on; in colour if wanted.
pub fn draw(chain: &ChainInfo, width: usize, colour: bool) -> String {
    let paint = Paint { colour };
    let strip = (width.max(20) - INDENT).min(LONGEST);
    let size = human_size(chain.virtual_size);
    let layers = match chain.layers.len() {
        1 => "1 layer".to_owned(),
        more => format!("{more} layers"),
    };
    let on_disk = chain
        .layers
        .iter()
        .filter_map(|layer| layer.disk_size)
        .sum();
    let on_disk = human_size(on_disk);
    let name = match &chain.device {
        Some(device) => format!("{}: ", paint.bold(device)),
        None => String::new(),
    };
    let mut out = format!("{name}{size}, {layers}, {on_disk} on disk\n");
    for (index, layer) in chain.layers.iter().enumerate() {
        let line = if index + 1 < chain.layers.len() {
            "│"
        } else {
            " "
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "● {}", title(layer, width, paint));
        let _ = writeln!(out, "{line}   {}", numbers(layer));
        let _ = writeln!(out, "{line}   {}", draw_strip(chain, layer, strip, paint));
    }
    let column = human_size(chain.virtual_size.div_ceil(strip as u64));
    let (shown, hidden) = (paint.green("█ ▄"), paint.yellow("▒"));
    let _ = writeln!(
        out,
        "{shown} shown   {hidden} hidden by a layer above   · nothing   a column is {column}"
    );
    out
}

/// The file, without the beginning of a name that is too long, and what it is.
fn title(layer: &ChainLayer, width: usize, paint: Paint) -> String {
    let room = width
        .saturating_sub(INDENT + layer.format.len() + 2)
        .max(16);
    let skipped = layer.filename.chars().count().saturating_sub(room);
    let name = match skipped {
        0 => layer.filename.clone(),
        _ => format!(
            "…{}",
            layer.filename.chars().skip(skipped + 1).collect::<String>()
        ),
    };
    format!("{} ({})", paint.bold(&name), layer.format)
}

fn numbers(layer: &ChainLayer) -> String {
    let on_disk = match layer.disk_size {
        Some(bytes) => format!("{} on disk, ", human_size(bytes)),
        None => String::new(),
    };
    let (data, shown) = (human_size(layer.data), human_size(layer.shown));
    let holds = match (layer.data, layer.shown) {
        (0, _) => "no data".to_owned(),
        (all, some) if all == some => format!("{data} of data, all shown"),
        (_, 0) => format!("{data} of data, none shown"),
        _ => format!("{data} of data, {shown} shown"),
    };
    let frees = match layer.frees {
        None | Some(0) => String::new(),
        Some(bytes) => format!(", merging it frees {}", human_size(bytes)),
    };
    format!("{on_disk}{holds}{frees}")
}

/// What a column of a strip shows most of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    /// At least half of it is data that the disk shows.
    Full,
    /// Less of it is.
    Some,
    /// Data that layers above hide.
    Hidden,
    Nothing,
}

fn draw_strip(chain: &ChainInfo, layer: &ChainLayer, columns: usize, paint: Paint) -> String {
    let column = |index| {
        let shown = share(&layer.shown_map, index, columns);
        let data = share(&layer.data_map, index, columns);
        let whole = chain.part_size as f64 * layer.data_map.len() as f64 / columns as f64;
        if shown >= whole / 2.0 {
            Column::Full
        } else if shown > 0.0 && shown >= data / 2.0 {
            Column::Some
        } else if data > 0.0 {
            Column::Hidden
        } else {
            Column::Nothing
        }
    };
    let all: Vec<_> = (0..columns).map(column).collect();
    all.chunk_by(|one, next| one == next)
        .map(|run| match run[0] {
            Column::Full => paint.green(&"█".repeat(run.len())),
            Column::Some => paint.green(&"▄".repeat(run.len())),
            Column::Hidden => paint.yellow(&"▒".repeat(run.len())),
            Column::Nothing => "·".repeat(run.len()),
        })
        .collect()
}

/// Bytes of a map that fall into one column of several.
fn share(map: &[u64], index: usize, columns: usize) -> f64 {
    let per_column = map.len() as f64 / columns as f64;
    let (from, to) = (index as f64 * per_column, (index + 1) as f64 * per_column);
    let overlap = |part: usize| (to.min(part as f64 + 1.0) - from.max(part as f64)).max(0.0);
    let bytes = |(part, bytes): (usize, &u64)| *bytes as f64 * overlap(part);
    map.iter().enumerate().map(bytes).sum()
}

/// Colours, where they are wanted.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }
}

/// Columns of the terminal that standard output is; 80 where it is none.
pub fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// Whether what goes to standard output is to be coloured: on a terminal, unless `NO_COLOR` says
/// otherwise.
pub fn wants_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
