//! The benchmark, small: that every fabric is what it says, not how fast it is.

use anyhow::Result;
use c2c_tests::bench::{self, Fabric, Options, baseline};

#[test]
fn every_fabric_carries_the_traffic_and_is_what_it_says() -> Result<()> {
    // The run itself fails when a fabric's own counters do not move, or lets in what no policy allows.
    let rows = bench::run(&Options { quick: true, only: Some("same-cell/2/".to_owned()) }, |_| {})?;
    for fabric in Fabric::ALL {
        let of_fabric: Vec<_> = rows.iter().filter(|row| row.fabric == fabric).collect();
        assert_eq!(of_fabric.len(), 5, "{}: {of_fabric:?}", fabric.as_str());
        assert!(of_fabric.iter().all(|row| row.min > 0.0 && row.min <= row.median && row.median <= row.max));
        assert!(of_fabric.iter().all(|row| row.ratio_to_bare.is_some()));
    }
    Ok(())
}

#[test]
fn with_a_switch_between_them_the_cells_reach_a_third_host() -> Result<()> {
    let rows = bench::run(&Options { quick: true, only: Some("mapped-port/2/".to_owned()) }, |_| {})?;
    for fabric in [Fabric::Bare, Fabric::Silk, Fabric::C2c] {
        let of_fabric: Vec<_> = rows.iter().filter(|row| row.fabric == fabric).collect();
        assert_eq!(of_fabric.len(), 4, "{}: {of_fabric:?}", fabric.as_str());
        assert!(of_fabric.iter().all(|row| row.min > 0.0), "{of_fabric:?}");
    }
    Ok(())
}

#[test]
fn a_name_that_no_scenario_has_is_refused() {
    let options = Options { quick: true, only: Some("no such".to_owned()) };
    let error = bench::run(&options, |_| {}).expect_err("it is refused");
    assert!(error.to_string().contains("other-cell"), "{error}");
}

#[test]
fn the_verifier_goes_through_as_many_instructions_as_were_accepted() -> Result<()> {
    let rows = bench::run(&Options { quick: true, only: Some("programs".to_owned()) }, |_| {})?;
    // On a kernel that nobody has committed figures of, that there are any is all that can be said.
    assert!(rows.iter().all(|row| row.median > 0.0), "{rows:?}");
    let Some((different, told)) = baseline::compare(&rows)? else { return Ok(()) };
    println!("{}", told.join("\n"));
    assert!(
        different.is_empty(),
        "{different:#?}\nif that is meant: cargo xtask bench --only programs --accept-programs, and commit the file"
    );
    Ok(())
}
