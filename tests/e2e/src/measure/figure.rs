//! A number with its unit.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Things.
    Count,
    /// One number over another.
    Ratio,
    /// Hundredths of a whole.
    Percent,
}

/// A number with its unit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
}

impl Figure {
    /// A time.
    pub fn time(duration: Duration) -> Self {
        Self { value: duration.as_secs_f64(), unit: Unit::Seconds }
    }

    /// So many things.
    pub fn count(count: u64) -> Self {
        Self { value: count as f64, unit: Unit::Count }
    }

    /// So many bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self { value: bytes as f64, unit: Unit::Bytes }
    }

    /// So many bytes in that time.
    pub fn rate(bytes: u64, time: Duration) -> Self {
        Self { value: bytes as f64 / time.as_secs_f64(), unit: Unit::BytesPerSecond }
    }

    /// A part of a whole.
    pub fn percent(part: u64, whole: u64) -> Self {
        Self { value: 100.0 * part as f64 / whole as f64, unit: Unit::Percent }
    }

    /// A ratio.
    pub fn ratio(value: f64) -> Self {
        Self { value, unit: Unit::Ratio }
    }

    /// This over `other`.
    pub fn over(self, other: Self) -> Self {
        Self::ratio(self.value / other.value)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        let text = match self.unit {
            Unit::Seconds if value < 0.001 => format!("{:.0} us", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Bytes => binary(value),
            Unit::BytesPerSecond => format!("{}/s", binary(value)),
            Unit::Count => grouped(value),
            Unit::Ratio if value < 0.1 => format!("{value:.4}x"),
            Unit::Ratio if value < 10.0 => format!("{value:.2}x"),
            Unit::Ratio => format!("{value:.0}x"),
            Unit::Percent => format!("{value:.2}%"),
        };
        f.pad(&text)
    }
}

fn binary(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return format!("{value:.0} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.2} GiB")
}

/// 131072 is 131,072.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_written_as_people_read_it() {
        let text = |value, unit| Figure { value, unit }.to_string();
        assert_eq!(Figure::count(131_072).to_string(), "131,072");
        assert_eq!((text(12.0, Unit::Count), text(123_456.0, Unit::Count)), ("12".into(), "123,456".into()));
        assert_eq!(
            (text(1.744, Unit::Seconds), text(0.0394, Unit::Seconds)),
            ("1.74 s".into(), "39.4 ms".into())
        );
        assert_eq!(text(0.000_12, Unit::Seconds), "120 us");
        assert_eq!(
            (text(65536.0, Unit::Bytes), text(1.5e9, Unit::Bytes)),
            ("64 KiB".into(), "1.40 GiB".into())
        );
        assert_eq!(Figure::rate(1 << 30, Duration::from_millis(500)).to_string(), "2.00 GiB/s");
        assert_eq!((text(0.0019, Unit::Ratio), text(117.2, Unit::Ratio)), ("0.0019x".into(), "117x".into()));
        assert_eq!(Figure::percent(997, 1000).to_string(), "99.70%");
    }
}
