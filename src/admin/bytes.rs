//! Sizes for people.

/// `1.5 GiB`; below a KiB exactly.
pub(super) fn readable(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    // One decimal, in integers: tenths of the present unit.
    let (mut tenths, mut unit) = (u128::from(bytes) * 10, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn sizes_have_a_unit_and_one_decimal() {
        let shown = [0, 1023, 1024, 1536, 64 << 20, 3 << 30, 1 << 50].map(readable);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "3.0 GiB", "1024.0 TiB"]
        );
    }
}
