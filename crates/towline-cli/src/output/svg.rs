//! Pictures: lines over an axis, and bars. Plain SVG that every browser shows, without scripts.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// Colours that people with colour vision deficiencies tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    right: bool,
}

/// Lines over a common axis; those on the right have a scale of their own.
pub(crate) struct Plot {
    title: String,
    x: String,
    y: String,
    y_right: Option<String>,
    /// The end of the scale, if it is not to follow the lines.
    top: Option<f64>,
    lines: Vec<Line>,
}

/// Text inside an element.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The least round number that is not below: 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Plot {
    pub(crate) fn new(title: &str, x: &str, y: &str, y_right: Option<&str>) -> Plot {
        let y_right = y_right.map(str::to_owned);
        Plot {
            title: title.into(),
            x: x.into(),
            y: y.into(),
            y_right,
            top: None,
            lines: Vec::new(),
        }
    }

    pub(crate) fn line(&mut self, name: &str, points: Vec<(f64, f64)>) {
        self.lines.push(Line { name: name.into(), points, right: false });
    }

    /// Makes the scale end at this value or a little above it.
    pub(crate) fn top(&mut self, value: f64) {
        self.top = Some(value);
    }

    /// A line on the scale at the right.
    pub(crate) fn line_right(&mut self, name: &str, points: Vec<(f64, f64)>) {
        self.lines.push(Line { name: name.into(), points, right: true });
    }

    pub(crate) fn to_svg(&self) -> String {
        head(HEIGHT) + &self.body() + "</svg>\n"
    }

    fn body(&self) -> String {
        let top = |right: bool| {
            let lines = self.lines.iter().filter(|line| line.right == right);
            let values = lines.flat_map(|line| line.points.iter().map(|point| point.1));
            let fixed = self.top.filter(|_| !right);
            round_up(fixed.unwrap_or_else(|| values.fold(0.0, f64::max)))
        };
        let ends = self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
        let (x_top, y_top, right_top) = (ends.fold(0.0, f64::max).max(1e-9), top(false), top(true));
        let place_x = |x: f64| LEFT + x / x_top * (WIDTH - LEFT - RIGHT);
        let place_y = |y: f64, top: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = headline(&self.title);
        for step in 0..=4 {
            let share = f64::from(step) / 4.0;
            let y = place_y(share, 1.0);
            let (left, right) = (number(share * y_top), number(share * right_top));
            let end = WIDTH - RIGHT;
            let _ = writeln!(svg, "<path class='grid' d='M{LEFT} {y:.1}H{end}'/>");
            let _ = writeln!(
                svg,
                "<text x='{}' y='{:.1}' text-anchor='end'>{left}</text>",
                LEFT - 8.0,
                y + 4.0
            );
            if self.y_right.is_some() {
                let _ = writeln!(svg, "<text x='{}' y='{:.1}'>{right}</text>", end + 8.0, y + 4.0);
            }
            let x = place_x(share * x_top);
            let (label, below) = (number(share * x_top), HEIGHT - BOTTOM + 18.0);
            let _ =
                writeln!(svg, "<text x='{x:.1}' y='{below}' text-anchor='middle'>{label}</text>");
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(
            svg,
            "<text x='{middle}' y='{}' text-anchor='middle'>{}</text>",
            HEIGHT - BOTTOM + 36.0,
            escape(&self.x)
        );
        let _ = writeln!(
            svg,
            "<text x='{LEFT}' y='{}' text-anchor='middle'>{}</text>",
            TOP - 10.0,
            escape(&self.y)
        );
        if let Some(unit) = &self.y_right {
            let _ = writeln!(
                svg,
                "<text x='{}' y='{}' text-anchor='middle'>{}</text>",
                WIDTH - RIGHT,
                TOP - 10.0,
                escape(unit)
            );
        }
        for (index, (line, colour)) in
            self.lines.iter().zip(COLOURS.into_iter().cycle()).enumerate()
        {
            let top = if line.right { right_top } else { y_top };
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|(x, y)| (place_x(*x), place_y(*y, top))).collect();
            self.draw(&mut svg, index, line, colour, &points);
        }
        svg
    }

    /// A line, or a dot where there is one point only, and its name below.
    fn draw(&self, svg: &mut String, index: usize, line: &Line, colour: &str, at: &[(f64, f64)]) {
        let dash = if line.right { " stroke-dasharray='5 3'" } else { "" };
        if let [(x, y)] = at {
            let _ = writeln!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='5' fill='{colour}'/>");
        }
        let points: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline fill='none' stroke='{colour}' stroke-width='2'{dash} points='{}'/>",
            points.join(" ")
        );
        let step = ((WIDTH - LEFT) / self.lines.len() as f64).min(160.0);
        let (x, y) = (LEFT + step * index as f64, HEIGHT - 10.0);
        let _ = writeln!(
            svg,
            "<path d='M{x:.1} {}h24' stroke='{colour}' stroke-width='3'{dash}/>",
            y - 4.0
        );
        let name = escape(&line.name);
        let _ = writeln!(svg, "<text x='{:.1}' y='{y}'>{name}</text>", x + 30.0);
    }
}

/// Several below each other.
pub(crate) fn stack(plots: &[Plot]) -> String {
    let mut svg = head(HEIGHT * plots.len() as f64);
    for (number, plot) in plots.iter().enumerate() {
        let down = HEIGHT * number as f64;
        let _ = writeln!(svg, "<g transform='translate(0 {down})'>\n{}</g>", plot.body());
    }
    svg + "</svg>\n"
}

fn head(height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' font-family='sans-serif' font-size='13'>\n\
         <style>.grid{{stroke:#8884;stroke-width:1}}text{{fill:#555}}</style>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n"
    )
}

fn headline(title: &str) -> String {
    let title = escape(title);
    format!("<text x='{LEFT}' y='24' font-size='16' font-weight='bold'>{title}</text>\n")
}

/// Bars below each other, each with a name, a length from 0 to 1, and words at its end.
pub(crate) fn bars(title: &str, rows: &[(String, f64, String)], under: &str) -> String {
    let mut svg = head(HEIGHT) + &headline(title);
    let step = (HEIGHT - TOP - BOTTOM) / rows.len().max(1) as f64;
    let whole = WIDTH - 2.0 * LEFT - 230.0;
    for (index, (name, share, words)) in rows.iter().enumerate() {
        let y = TOP + step * index as f64;
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or("#000");
        let length = share.clamp(0.0, 1.0) * whole;
        let (thick, middle) = (step * 0.7, y + step * 0.35 + 5.0);
        let start = LEFT + 20.0;
        let _ = writeln!(
            svg,
            "<text x='{}' y='{middle:.1}' text-anchor='end'>{}</text>",
            start - 8.0,
            escape(name)
        );
        let _ = writeln!(
            svg,
            "<rect x='{start}' y='{y:.1}' width='{whole}' height='{thick:.1}' fill='#8882'/>"
        );
        let _ = writeln!(
            svg,
            "<rect x='{start}' y='{y:.1}' width='{length:.1}' height='{thick:.1}' fill='{colour}'/>"
        );
        let _ = writeln!(
            svg,
            "<text x='{}' y='{middle:.1}'>{}</text>",
            start + whole + 8.0,
            escape(words)
        );
    }
    let _ = writeln!(svg, "<text x='{LEFT}' y='{}'>{}</text>", HEIGHT - 20.0, escape(under));
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, expected) in
            [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (940.0, 1000.0)]
        {
            assert!((round_up(value) - expected).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn pictures_hold_their_lines_and_no_markup_from_names() {
        let mut plot = Plot::new("a < b", "s", "Mbit/s", Some("ms"));
        plot.line("one", vec![(0.0, 1.0), (1.0, 2.0)]);
        plot.line_right("<two>", vec![(0.5, 3.0)]);
        let svg = plot.to_svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("&lt;two&gt;"));
        assert_eq!(svg.matches("<circle").count(), 1);
        let both = stack(&[plot, Plot::new("c", "s", "Mbit/s", None)]);
        assert_eq!(both.matches("<svg ").count(), 1);
        assert!(both.contains("translate(0 380)") && both.contains("0 0 760 760"));
        let bars = bars("t", &[("tcp".into(), 0.5, "5 Mbit/s".into())], "u");
        assert!(bars.contains("tcp") && bars.contains("5 Mbit/s"));
    }
}
