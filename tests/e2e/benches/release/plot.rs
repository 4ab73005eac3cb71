//! The goals as a picture: how far each figure is from its goal.

use std::error::Error;
use std::path::Path;

use e2e::measure::{Row, Table, Verdict};
use plotters::prelude::*;

/// Pixels.
const WIDTH: u32 = 1100;
const ROW: u32 = 26;
/// The scale ends here: what is better still looks like this.
const BEST: f64 = 1e-4;

/// One bar.
struct Bar<'a> {
    row: &'a Row,
    /// Measured over goal (or the other way round where more is better): 1 is just met, less is better.
    distance: f64,
}

/// Writes the picture of all rows that have a goal.
pub(crate) fn write(table: &Table, path: &Path) -> Result<(), Box<dyn Error>> {
    let bars: Vec<Bar> = table
        .rows()
        .filter_map(|row| {
            let distance = row.goal?.distance(row.measured?);
            let distance = if distance.is_finite() { distance.max(BEST) } else { 1.0 / BEST };
            Some(Bar { row, distance })
        })
        .collect();
    let worst = bars.iter().map(|bar| bar.distance).fold(1.0, f64::max);
    let height = 110 + ROW * bars.len() as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    // The first row on top.
    let at = |index: usize| bars.len() - 1 - index;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Giving memory back: measured / goal (1 is just met, left of it is better)",
            ("sans-serif", 18),
        )
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(430)
        .build_cartesian_2d((BEST..worst * 20.0).log_scale(), (0..bars.len()).into_segmented())?;
    let name = |value: &SegmentValue<usize>| match value {
        SegmentValue::CenterOf(index) if *index < bars.len() => bars[at(*index)].row.what.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&name)
        .x_label_formatter(&|x| format!("{x}"))
        .x_desc("measured / goal")
        .draw()?;
    for (index, bar) in bars.iter().enumerate() {
        let (color, centre) = match bar.row.verdict {
            Some(Verdict::Met) => (GREEN.mix(0.5), SegmentValue::CenterOf(at(index))),
            _ => (RED.mix(0.6), SegmentValue::CenterOf(at(index))),
        };
        let corners =
            [(BEST, SegmentValue::Exact(at(index))), (bar.distance, SegmentValue::Exact(at(index) + 1))];
        let mut rectangle = Rectangle::new(corners, color.filled());
        rectangle.set_margin(4, 4, 0, 0);
        chart.draw_series([rectangle])?;
        let measured = bar.row.measured.map(|figure| figure.to_string()).unwrap_or_default();
        let goal = bar.row.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let label = Text::new(format!("  {measured} ({goal})"), (bar.distance, centre), ("sans-serif", 12));
        chart.draw_series([label])?;
    }
    let line = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Exact(bars.len()))];
    chart.draw_series([PathElement::new(line, BLACK.stroke_width(2))])?;
    root.present()?;
    Ok(())
}
