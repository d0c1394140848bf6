//! The figures as a chart: what each fabric costs against the bare underlay, and how a round trip grows with policies.

use super::fabric::Fabric;
use super::figures::{CONNECTIONS, DATAGRAMS, Metric, ROUND_TRIP_P50, Row, STREAM};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

const SIZE: (u32, u32) = (1_100, 420);
const SCENARIO: &str = "other-cell";
const METRICS: [Metric; 4] = [STREAM, ROUND_TRIP_P50, CONNECTIONS, DATAGRAMS];
/// Part of a metric's room that its bars take.
const BARS: f64 = 0.8;

/// Draws the scenario of two cells with the most containers as SVG; a half for which there are no figures stays empty.
///
/// # Errors
/// When the chart cannot be drawn.
pub fn chart(rows: &[Row]) -> Result<String> {
    let mut svg = String::new();
    draw(rows, &mut svg).map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
    Ok(svg)
}

fn draw(rows: &[Row], svg: &mut String) -> Drawn {
    let rows = rows.iter().filter(|row| row.scenario == SCENARIO);
    let most = rows.clone().map(|row| row.containers).max();
    let rows: Vec<&Row> = rows.filter(|row| Some(row.containers) == most).collect();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    costs(&rows, &left)?;
    growth(&rows, &right)?;
    area.present()?;
    Ok(())
}

/// Bars: ratios to bare with the fewest policies that there are.
fn costs(rows: &[&Row], area: &Area<'_>) -> Drawn {
    let Some((policies, containers)) = rows.iter().map(|row| (row.policies, row.containers)).min() else {
        return Ok(());
    };
    let here = rows.iter().filter(|row| row.policies == policies);
    let bars: Vec<(f64, f64, Fabric)> = here.filter_map(|row| bar(row)).collect();
    let highest = bars.iter().map(|(_, ratio, _)| *ratio).fold(1.0, f64::max) * 1.1;
    let caption = format!(
        "Ratio to bare (more is better, but for round trips): {containers} containers, {policies} policies"
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 13))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(45)
        .build_cartesian_2d(0.0..4.0, 0.0..highest)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).draw()?;
    let width = BARS / 4.0;
    chart.draw_series(bars.iter().map(|(left, ratio, fabric)| {
        Rectangle::new([(*left, 0.0), (left + width, *ratio)], color(*fabric).filled())
    }))?;
    let labels = (0_u8..).zip(METRICS).map(|(place, metric)| {
        Text::new(metric.name, (f64::from(place) + 0.1, -highest * 0.03), ("sans-serif", 12))
    });
    for label in labels {
        chart.plotting_area().draw(&label)?;
    }
    Ok(())
}

/// Left end, height and fabric of a row's bar.
fn bar(row: &Row) -> Option<(f64, f64, Fabric)> {
    let place = (0_u8..).zip(METRICS).find(|(_, metric)| metric.name == row.metric)?.0;
    let turn = (0_u8..).zip(Fabric::ALL).find(|(_, fabric)| *fabric == row.fabric)?.0;
    let left = f64::from(place) + (1.0 - BARS) / 2.0 + f64::from(turn) * BARS / 4.0;
    Some((left, row.ratio_to_bare?, row.fabric))
}

/// Lines: the median round trip over the number of policies, both axes logarithmic; without policies is drawn at one.
fn growth(rows: &[&Row], area: &Area<'_>) -> Drawn {
    let trips: Vec<&&Row> = rows.iter().filter(|row| row.metric == ROUND_TRIP_P50.name).collect();
    let Some(containers) = trips.first().map(|row| row.containers) else { return Ok(()) };
    let lowest = trips.iter().map(|row| row.median).fold(f64::INFINITY, f64::min);
    let highest = trips.iter().map(|row| row.median).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("TCP round trip p50, us, by policies: {containers} containers"), ("sans-serif", 13))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(55)
        .build_cartesian_2d((1.0..200_000.0).log_scale(), (lowest / 1.5..highest * 1.5).log_scale())?;
    let whole = |number: &f64| format!("{number:.0}");
    let policies = |number: &f64| if *number > 1.0 { whole(number) } else { "0".to_owned() };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&policies)
        .y_label_formatter(&whole)
        .draw()?;
    for fabric in Fabric::ALL {
        let mut points: Vec<(f64, f64)> = trips
            .iter()
            .filter(|row| row.fabric == fabric)
            .map(|row| (f64::from(row.policies.max(1)), row.median))
            .collect();
        points.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
        let line = PathElement::new(points.clone(), color(fabric).stroke_width(2));
        let legend = move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], color(fabric).filled());
        chart.draw_series(std::iter::once(line))?.label(fabric.as_str()).legend(legend);
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color(fabric).filled())))?;
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}

fn color(fabric: Fabric) -> RGBColor {
    match fabric {
        Fabric::Bare => RGBColor(150, 150, 150),
        Fabric::Vxlan => RGBColor(230, 159, 0),
        Fabric::Silk => RGBColor(213, 94, 0),
        Fabric::C2c => RGBColor(0, 114, 178),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Rounds;
    use super::*;

    #[test]
    fn every_fabric_is_in_the_chart_and_no_figures_are_an_empty_one() -> Result<()> {
        let mut rows = Vec::new();
        for (policies, slower) in [(0, 1.0), (1_000, 4.0)] {
            let mut rounds = Rounds::default();
            for fabric in Fabric::ALL {
                rounds.add(ROUND_TRIP_P50, fabric, 15.0 * slower);
                rounds.add(STREAM, fabric, 20.0);
            }
            rows.extend(rounds.rows(SCENARIO, 2, policies));
        }
        let svg = chart(&rows)?;
        assert!(Fabric::ALL.iter().all(|fabric| svg.contains(fabric.as_str())), "{svg}");
        assert!(svg.contains("tcp stream") && svg.trim_end().ends_with("</svg>"));
        assert!(chart(&[])?.contains("<svg"));
        Ok(())
    }
}
