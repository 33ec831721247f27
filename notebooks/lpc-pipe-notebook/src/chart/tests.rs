use super::*;

fn names(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| v.to_string()).collect()
}

#[test]
fn pictures_have_their_words_and_no_style() {
    let bars = Chart::bars(&names(&["travel", "health"]), &[("clean", vec![0.5, 0.7]), ("flipped", vec![0.2, 0.1])]);
    let lines = Chart::lines().line_with_band("clean", &[0.0, 0.2], &[0.8, 0.7], &[0.7, 0.6], &[0.9, 0.8]);
    let heat = Chart::heat(&names(&["travel", "health"]), &names(&["0", "1"]), &[vec![0.1, 0.9], vec![0.4, 0.6]]);
    let points = Chart::points(&[("travel".into(), vec![(0.0, 1.0), (2.0, 3.0)])]);
    let histogram = Chart::histogram(&[("clean".into(), vec![0.0, 1.0]), ("flipped".into(), vec![2.0])], 4);
    for (chart, words, marks) in [
        (bars, vec!["travel", "health", "clean", "flipped"], "<rect"),
        (lines, vec!["clean"], "<path"),
        (heat, vec!["travel", "health"], "<rect"),
        (points, vec!["travel"], "<circle"),
        (histogram, vec!["clean", "flipped"], "<path"),
    ] {
        let svg = chart.expect("a chart").title("Shares < all").axes("source", "share").svg();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("<style") && !svg.contains("class="), "{svg}");
        assert!(svg.contains("Shares &lt; all") && svg.contains(">source<") && svg.contains(">share<"), "{svg}");
        assert!(svg.contains(marks), "{svg}");
        for word in words {
            assert!(svg.contains(&format!(">{word}<")), "no {word} in {svg}");
        }
    }
}

/// The first row of a heat map is at the top, next to its own name.
#[test]
fn rows_of_a_heat_map_are_next_to_their_names() {
    let chart = Chart::heat(&names(&["upper", "lower"]), &names(&["0"]), &[vec![0.25], vec![0.75]]).expect("a chart");
    let svg = chart.svg();
    let y = |word: &str| -> f64 {
        let end = svg.find(&format!(">{word}<")).unwrap_or_else(|| panic!("no {word} in {svg}"));
        let tag = &svg[svg[..end].rfind("<text").expect("a text")..end];
        tag.split(" y=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("y").parse().expect("a number")
    };
    assert!(y("upper") < y("lower") && y("0.25") < y("0.75"), "{svg}");
    assert!((y("upper") - y("0.25")).abs() < (y("upper") - y("0.75")).abs(), "{svg}");
}

#[test]
fn what_cannot_be_drawn_is_an_error() {
    let two = names(&["a", "b"]);
    let message = |chart: Result<Chart>| chart.expect_err("an error").to_string();
    assert!(message(Chart::bars(&two, &[("share", vec![1.0])])).contains("share: 1 values for 2 places"));
    assert!(message(Chart::bars(&two, &[("share", vec![1.0, f64::NAN])])).contains("NaN"));
    assert!(message(Chart::bars::<Vec<f64>>(&[], &[])).contains("no bars"));
    assert!(message(Chart::lines().line("loss", &[], &[])).contains("loss: no points"));
    assert!(message(Chart::heat(&two, &two, &[vec![1.0, 2.0]])).contains("rows: 1 values for 2 places"));
    assert!(message(Chart::points(&[("a".into(), Vec::new())])).contains("no points"));
    let many: Vec<(String, Vec<(f64, f64)>)> = (0..9).map(|i| (i.to_string(), vec![(0.0, 0.0)])).collect();
    assert!(message(Chart::points(&many)).contains("more than 8"));
    assert!(message(Chart::histogram(&[("a".into(), Vec::new())], 3)).contains("no values"));
}

/// A page with several pictures: what one refers to is its own.
#[test]
fn pictures_have_ids_of_their_own() {
    let ids = |height: f64| -> Vec<String> {
        let svg = Chart::bars(&names(&["a"]), &[("share", vec![height])]).expect("a chart").svg();
        let ids: Vec<String> =
            svg.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(String::from).collect();
        assert!(!ids.is_empty() && svg.contains("url(#"), "{svg}");
        for used in svg.split("url(#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(ids.iter().any(|id| id == used), "{used} is not in {ids:?}");
        }
        ids
    };
    assert!(ids(1.0).iter().all(|id| !ids(2.0).contains(id)));
}
