//! Columns of text.

/// Rows, the first of which is the head, with each column as wide as its longest cell. Columns
/// whose number is in `right` stand on the right; the last one is not filled up.
pub(super) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let len = |text: &String| text.chars().count();
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(len).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - len(cell));
            let gap = if column == 0 { "" } else { "  " };
            line += gap;
            if right.contains(&column) {
                line += &fill;
                line += cell;
            } else {
                line += cell;
                line += &fill;
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}
