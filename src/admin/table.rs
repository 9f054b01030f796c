//! Columns that line up.

use std::io::{self, Write};

/// Rows of a table under a heading; every cell but the last is padded.
#[derive(Debug)]
pub(super) struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&str; N]) -> Self {
        Self(vec![heading.map(str::to_owned)])
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        // An empty cell would shift what a script reads by columns.
        self.0.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |column: usize| {
            self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        for row in &self.0 {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                line.push_str(cell);
                let missing = (width(column) + 2).saturating_sub(cell.chars().count());
                line.extend(std::iter::repeat_n(' ', missing));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_cell_is_empty() {
        let mut table = Table::new(["A", "LONG HEADING", "C"]);
        table.row(["one".to_owned(), String::new(), "last".to_owned()]);
        table.row(["ä".to_owned(), "x".to_owned(), String::new()]);
        let mut text = Vec::new();
        table.print(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "A    LONG HEADING  C\none  -             last\nä    x             -\n"
        );
    }
}
