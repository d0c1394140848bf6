//! Whether a fabric is what it says: its own counters must have moved with the traffic, and what no policy allows must be
//! refused. A figure of a fabric that does something else is worse than none.

use super::fabric::{Fabric, Fabrics, Path};
use super::kernel::rules;
use super::load::{Pins, Way, accepts};
use super::setting::PORT;
use super::wire;
use crate::lab::UNDERLAY_INTERFACE;
use crate::observe::counters::Counters;
use anyhow::{Context, Result, ensure};

/// A port that no policy names.
const CLOSED_PORT: u16 = PORT - 1;

/// Counters of a fabric that traffic must move, by their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evidence(Vec<(String, u64)>);

impl Evidence {
    /// Reads what traffic on a path of a fabric moves.
    pub(super) fn of(fabrics: &Fabrics, fabric: Fabric, path: Path) -> Result<Self> {
        Ok(Self(match fabric {
            Fabric::Bare => bare(fabrics, path)?,
            Fabric::Vxlan => vxlan(fabrics, path)?,
            Fabric::Silk => silk(fabrics, path)?,
            Fabric::C2c => c2c(fabrics, path)?,
        }))
    }

    /// An error unless every one of them has moved since the earlier look.
    pub(super) fn has_moved_since(&self, earlier: &Self, fabric: Fabric) -> Result<()> {
        for ((name, now), (_, before)) in self.0.iter().zip(&earlier.0) {
            let fabric = fabric.as_str();
            ensure!(now > before, "{fabric} is not what it says: traffic did not move {name} from {before}");
        }
        Ok(())
    }
}

fn bare(fabrics: &Fabrics, path: Path) -> Result<Vec<(String, u64)>> {
    let cell = fabrics.bare.cell(if path == Path::Mapped { "b" } else { "a" })?;
    match path {
        Path::SameCell => Ok(Vec::new()),
        Path::OtherCell | Path::Mapped | Path::Outside => {
            Ok(vec![("the underlay's device".to_owned(), wire::sent(&cell.namespace, UNDERLAY_INTERFACE)?)])
        }
    }
}

fn vxlan(fabrics: &Fabrics, path: Path) -> Result<Vec<(String, u64)>> {
    if path != Path::OtherCell {
        return Ok(Vec::new());
    }
    let cell = fabrics.vxlan.underlay.cell("a")?;
    Ok(vec![("the tunnel's device".to_owned(), wire::sent(&cell.namespace, rules::VTEP)?)])
}

fn silk(fabrics: &Fabrics, path: Path) -> Result<Vec<(String, u64)>> {
    let underlay = &fabrics.silk.underlay;
    let (a, b) = (underlay.cell("a")?, underlay.cell("b")?);
    let mark = || rules::marked(a).map(|packets| ("the rule that marks on cell a".to_owned(), packets));
    let accept =
        |cell| rules::accepted(cell).map(|packets| ("the rule that accepts this mark".to_owned(), packets));
    match path {
        // Accepting on the other cell takes the mark, which crosses in the tunnel's header.
        Path::OtherCell => {
            let tunnel = ("the tunnel's device".to_owned(), wire::sent(&a.namespace, rules::VTEP)?);
            Ok(vec![mark()?, accept(b)?, tunnel])
        }
        Path::SameCell => Ok(vec![mark()?, accept(a)?]),
        Path::Mapped => Ok(vec![("the rule that maps the port".to_owned(), rules::mapped_in(b)?)]),
        Path::Outside => Ok(vec![("the rule that masquerades".to_owned(), rules::masqueraded(a)?)]),
    }
}

fn c2c(fabrics: &Fabrics, path: Path) -> Result<Vec<(String, u64)>> {
    let names: &[(&str, &str)] = match path {
        Path::OtherCell => &[("a", "from_container/to_cell"), ("b", "from_underlay/to_endpoint")],
        Path::SameCell => &[("a", "from_container/to_endpoint")],
        Path::Mapped => &[("b", "from_underlay/to_endpoint"), ("b", "from_container/to_outside")],
        Path::Outside => &[("a", "from_container/to_outside"), ("a", "from_underlay/to_endpoint")],
    };
    let read = |(cell, name): &(&str, &str)| {
        let counters = Counters::of(&fabrics.c2c.lab, cell)?;
        Ok((format!("{name} on cell {cell}"), counters.packets(name)))
    };
    names.iter().map(read).collect()
}

/// An error unless every fabric lets the client reach what a policy allows, and those with policies refuse the rest.
pub(super) fn policies_are_enforced(fabrics: &Fabrics, pins: Pins) -> Result<()> {
    for fabric in [Fabric::Vxlan, Fabric::Silk, Fabric::C2c] {
        for path in [Path::OtherCell, Path::SameCell] {
            let Some(way) = fabrics.way(fabric, path)? else { continue };
            let closed = Way::straight(way.client.clone(), way.server.clone(), *way.to.ip(), CLOSED_PORT);
            let said = || format!("{} {path:?}", fabric.as_str());
            ensure!(
                accepts(&way, pins).with_context(said)?,
                "{}: refused although a policy allows it",
                said()
            );
            let accepted = accepts(&closed, pins).with_context(said)?;
            let wanted = fabric == Fabric::Vxlan;
            ensure!(accepted == wanted, "{}: without a policy, accepted is {accepted}", said());
        }
    }
    Ok(())
}
