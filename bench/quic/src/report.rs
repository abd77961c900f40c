//! The table.

use crate::work::{Measure, Work};

/// `figures`: per contender, per round, per measure.
pub fn print(work: &Work, names: &[&str], figures: &[Vec<Vec<f64>>]) {
    println!("\n{} ({})", work.title, work.name);
    for (index, measure) in work.measures.iter().enumerate() {
        let goal =
            measure.goal.map_or(String::new(), |goal| format!("; goal {goal} of the best peer"));
        println!("  {}{goal}", measure.name);
        let columns: Vec<Vec<f64>> = figures
            .iter()
            .map(|rounds| rounds.iter().map(|round| round[index]).collect())
            .collect();
        let best = best_peer(names, &columns, measure);
        for (name, column) in names.iter().zip(&columns) {
            let (low, high) =
                column.iter().fold((f64::MAX, 0f64), |(low, high), x| (low.min(*x), high.max(*x)));
            // A ratio per round, because its two sides met the same moment of the machine.
            let ratio = best.map_or(String::new(), |best| {
                let ratios: Vec<f64> =
                    column.iter().zip(&columns[best]).map(|(own, other)| own / other).collect();
                format!("{:.2} of {}", median(&ratios), names[best])
            });
            let digits = if median(column) < 100.0 { 2 } else { 0 };
            println!(
                "    {name:<16} {:>12.digits$}  ({low:.digits$} to {high:.digits$})  {ratio}",
                median(column)
            );
        }
    }
}

/// Whose median is the best of those that are not ours and not the ceiling.
fn best_peer(names: &[&str], columns: &[Vec<f64>], measure: &Measure) -> Option<usize> {
    let peers = (0..names.len())
        .filter(|index| !names[*index].starts_with("towline") && names[*index] != "ceiling");
    let value = |index: &usize| median(&columns[*index]);
    let order = |a: &usize, b: &usize| value(a).total_cmp(&value(b));
    if measure.more_is_better { peers.max_by(order) } else { peers.min_by(order) }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
