//! What drill and load generator have found, as one HTML file that needs nothing else: a verdict, figures, and plots as SVG.
//! It runs no script and loads nothing.

use std::{fmt::Write as _, fs, io, path::Path};

/// Ink of the series of a plot, in their order; told apart by people who see few colours, on light and dark ground.
const COLOURS: [&str; 6] = ["#3b82c4", "#d9822b", "#3f9d6b", "#b5559b", "#8a8a2e", "#8c6bb1"];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for the axis and its numbers.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 16.0;
/// Numbers at each axis, about.
const TICKS: f64 = 5.0;

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c2733; --paper: #ffffff; --line: #c9d1d9; --dim: #5c6b7a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --paper: #14181d; --line: #3a444f; --dim: #9aa7b4; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 780px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .2em .6em; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: normal; color: var(--dim); } .passed { border-left: 4px solid #3f9d6b; padding-left: .8em; } .failed { border-left: 4px solid #c0392b; padding-left: .8em; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 12px; } svg .axis { stroke: var(--line); stroke-width: 1; }
figure { margin: 2em 0; } figcaption { font-weight: 600; }";

/// The page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Its name.
    pub title: String,
    /// Why it has failed; empty when it has not.
    pub failures: Vec<String>,
    /// What is said when it has not.
    pub passed: String,
    /// Name and value of each figure.
    pub figures: Vec<(String, String)>,
    /// The plots.
    pub plots: Vec<Plot>,
}

/// How the points of a plot are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// Each by itself.
    Dots,
    /// From one to the next.
    Line,
    /// A bar from zero; `x` is the number of a name in [`Plot::names`].
    Bars,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What lies to the right, with its unit.
    pub x: String,
    /// What lies upwards, with its unit.
    pub y: String,
    /// How.
    pub marks: Marks,
    /// Names along the lower edge, instead of numbers.
    pub names: Vec<String>,
    /// Name and points of each series.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Page {
    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.render())
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n\
             <body>\n<h1>{title}</h1>\n",
            title = escaped(&self.title)
        );
        if self.failures.is_empty() {
            let _ = writeln!(html, "<p class=\"passed\">{}</p>", escaped(&self.passed));
        }
        for failure in &self.failures {
            let _ = writeln!(html, "<p class=\"failed\">FAILED: {}</p>", escaped(failure));
        }
        html.push_str("<table>\n");
        for (name, value) in &self.figures {
            let _ = writeln!(html, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
        }
        html.push_str("</table>\n");
        for plot in self.plots.iter().filter(|plot| plot.series.iter().any(|(_, points)| !points.is_empty())) {
            html.push_str(&plot.render());
        }
        html.push_str("</body>\n</html>\n");
        html
    }
}

/// One axis: what of it is shown, and the numbers that stand at it.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// From zero, or from the first value if that is far from zero.
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let low = values.fold(f64::INFINITY, f64::min);
        let low = if low > 0.0 && low < high * 0.8 { 0.0 } else { low.min(0.0) };
        let span = if high > low { high - low } else { 1.0 };
        let rough = span / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        Self { low, high: low + (span / step).ceil() * step, step }
    }

    /// Where a value stands, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|number| self.low + number as f64 * self.step)
    }
}

impl Plot {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
        self.series.iter().flat_map(|(_, points)| points.iter().copied())
    }

    fn render(&self) -> String {
        let mut svg = format!(
            "<figure>\n<figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n",
            title = escaped(&self.title),
            height = HEIGHT + 20.0,
        );
        let y_axis = Axis::over(self.points().map(|(_, y)| y).chain([0.0]));
        let (wide, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let down = |y: f64| TOP + tall * (1.0 - y_axis.at(y));
        for tick in y_axis.ticks() {
            let y = down(tick);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                shown(tick)
            );
        }
        let x_axis = match self.names.len() {
            0 => Axis::over(self.points().map(|(x, _)| x)),
            count => Axis { low: -0.5, high: count as f64 - 0.5, step: 1.0 },
        };
        let across = |x: f64| LEFT + wide * x_axis.at(x);
        let mut below = |x: f64, text: &str| {
            let y = HEIGHT - BOTTOM + 18.0;
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", escaped(text));
        };
        if self.names.is_empty() {
            x_axis.ticks().for_each(|tick| below(across(tick), &shown(tick)));
        } else {
            self.names.iter().enumerate().for_each(|(number, name)| below(across(number as f64), name));
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            LEFT + wide / 2.0,
            HEIGHT - 8.0,
            escaped(&self.x),
            TOP + tall / 2.0,
            escaped(&self.y)
        );
        for (number, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            match self.marks {
                Marks::Dots => {
                    for (x, y) in points {
                        let (cx, cy) = (across(*x), down(*y));
                        let _ = writeln!(
                            svg,
                            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\" fill=\"{colour}\" fill-opacity=\"0.6\"><title>{}: {}</title></circle>",
                            shown(*x),
                            shown(*y)
                        );
                    }
                }
                Marks::Line => {
                    let path: Vec<String> =
                        points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y))).collect();
                    let path = path.join(" ");
                    let _ = writeln!(
                        svg,
                        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
                    );
                }
                Marks::Bars => {
                    let each = wide / self.names.len().max(1) as f64 * 0.8 / self.series.len() as f64;
                    for (x, y) in points {
                        let left = across(*x) + each * (number as f64 - self.series.len() as f64 / 2.0);
                        let (top, height) = (down(*y), (down(0.0) - down(*y)).max(0.0));
                        let _ = writeln!(
                            svg,
                            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{each:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\
                             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                            left + each / 2.0,
                            top - 3.0,
                            shown(*y)
                        );
                    }
                }
            }
            if self.series.len() > 1 {
                let x = LEFT + number as f64 * wide / self.series.len() as f64;
                let y = HEIGHT + 12.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                    y - 9.0,
                    x + 15.0,
                    escaped(name)
                );
            }
        }
        svg.push_str("</svg>\n</figure>\n");
        svg
    }
}

/// The share of `values` that is not greater, for each of them: where half of them, and where the last ones are.
pub fn shares(mut values: Vec<f64>) -> Vec<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    values.into_iter().enumerate().map(|(number, value)| (value, (number + 1) as f64 / count * 100.0)).collect()
}

/// Without digits that say nothing.
fn shown(value: f64) -> String {
    let digits = if value.abs() >= 100.0 || value.fract().abs() < 1e-9 { 0 } else { 2 };
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let plot = |marks, names: &[&str], points: &[(f64, f64)]| Plot {
            title: "times < 1 s".to_owned(),
            x: "fault".to_owned(),
            y: "ms".to_owned(),
            marks,
            names: names.iter().map(|&name| name.to_owned()).collect(),
            series: vec![("kill".to_owned(), points.to_vec()), ("term".to_owned(), Vec::new())],
        };
        Page {
            title: "Drill & <more>".to_owned(),
            failures: Vec::new(),
            passed: "Nothing was lost.".to_owned(),
            figures: vec![("lost".to_owned(), "0".to_owned()), ("calls \"accepted\"".to_owned(), "4711".to_owned())],
            plots: vec![
                plot(Marks::Dots, &[], &[(1.0, 12.0), (2.0, 340.0)]),
                plot(Marks::Line, &[], &[(12.0, 50.0), (340.0, 100.0)]),
                plot(Marks::Bars, &["lost", "twice"], &[(0.0, 0.0), (1.0, 3.0)]),
                plot(Marks::Dots, &[], &[]),
            ],
        }
    }

    #[test]
    fn a_page_holds_its_figures_and_needs_nothing_else() {
        let html = page().render();
        for held in [
            "<title>Drill &amp; &lt;more&gt;</title>",
            "<tr><th>lost</th><td>0</td></tr>",
            "<tr><th>calls &quot;accepted&quot;</th><td>4711</td></tr>",
            "<p class=\"passed\">Nothing was lost.</p>",
            "<title>2: 340</title>",
        ] {
            assert!(html.contains(held), "{held}\n{html}");
        }
        assert_eq!(html.matches("<svg").count(), 3, "nothing is plotted where nothing is");
        for outside in ["<script", "http://", "https://", "src=", "href=", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        let failed = Page { failures: vec!["2 lost".to_owned()], ..page() }.render();
        assert!(failed.contains("FAILED: 2 lost") && !failed.contains("Nothing was lost."));
    }

    /// Each point lies in the frame, whatever the values are.
    #[test]
    fn every_point_is_within_the_plot() {
        for points in [
            vec![(1.0, 0.0)],
            vec![(5.0, 7.0)],
            vec![(1.0, 1e-3), (2.0, 1e6)],
            vec![(-3.0, -5.0), (4.0, 5.0)],
            vec![(1000.0, 990.0), (1001.0, 1000.0)],
        ] {
            let mut plot = page().plots[0].clone();
            plot.series = vec![("one".to_owned(), points.clone())];
            let svg = plot.render();
            let places: Vec<(f64, f64)> = svg
                .split("<circle cx=\"")
                .skip(1)
                .map(|rest| {
                    let mut numbers = rest.split('"');
                    let x = numbers.next().unwrap().parse().unwrap();
                    (x, numbers.nth(1).unwrap().parse().unwrap())
                })
                .collect();
            assert_eq!(places.len(), points.len());
            for (x, y) in places {
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                    "{points:?}: {x} {y}"
                );
            }
        }
    }

    #[test]
    fn shares_rise_to_all_of_them() {
        assert_eq!(shares(vec![30.0, 10.0]), [(10.0, 50.0), (30.0, 100.0)]);
        assert!(shares(Vec::new()).is_empty());
    }
}
