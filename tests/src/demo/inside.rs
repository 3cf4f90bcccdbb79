//! A look inside: the kernel's maps, what the agent says, and a user's own look.

use anyhow::{Context, Result, ensure};
use policy_common::abi::Direction;
use policy_common::abi::endpoint::PolicyWord;
use policy_common::abi::maps::{ENDPOINTS, POLICY};

use super::cast::PODS;
use super::screen::Tone;
use super::{Demo, interrupt, maps, screen};

/// Pods whose elements are shown: one that policies isolate, one that none does.
const PODS_SHOWN: [&str; 2] = ["shop/db", "partner/client"];
/// Elements of the policy map that are shown.
const SHOWN: usize = 6;
/// Lines of `policy-agent policies` that are shown.
const LINES: usize = 10;

impl Demo {
    /// The kernel's maps.
    pub(super) fn kernel(&mut self) -> Result<()> {
        self.screen.heading("What the kernel has: bpftool map dump");
        let pin = |map| maps::pin(self.agent.bpffs(), map).display().to_string();
        self.screen
            .say("Pods of this node, two of them (policy 0: nothing isolates it):");
        self.screen
            .command(&format!("bpftool map dump pinned {}", pin(ENDPOINTS)));
        let dump = maps::dump(self.agent.bpffs(), ENDPOINTS, maps::is_endpoint)?;
        ensure!(
            dump.elements.len() == PODS.len(),
            "{ENDPOINTS} has {} pods instead of {}",
            dump.elements.len(),
            PODS.len()
        );
        for name in PODS_SHOWN {
            let element = self.endpoint(&dump, name)?;
            self.screen.quote([element.text.as_str()]);
            let word = element.fields["value"]["word"].as_u64();
            let word = PolicyWord(word.context("an endpoint has a word")?);
            let says = format!(
                "  ^ {name}: generation {}, ingress policy {}, egress policy {}",
                word.generation(),
                word.policy(Direction::Ingress),
                word.policy(Direction::Egress)
            );
            self.screen.line(&self.screen.paint(Tone::Faint, &says));
        }
        self.screen.line(&format!(
            "... {} more, and {} empty slots",
            dump.elements.len() - PODS_SHOWN.len(),
            dump.total - dump.elements.len()
        ));
        println!();
        self.screen
            .say("From policy and identity of the peer (0: any other) to a set of ports:");
        self.screen
            .command(&format!("bpftool map dump pinned {}", pin(POLICY)));
        let mut dump = maps::dump(self.agent.bpffs(), POLICY, |_| true)?;
        dump.elements.sort_by_key(|element| {
            let key = &element.fields["key"];
            (key["policy"].as_u64(), key["identity"].as_u64())
        });
        ensure!(
            dump.total > 0,
            "{POLICY} is empty, and yet pods are isolated"
        );
        for element in dump.elements.iter().take(SHOWN) {
            self.screen.quote([element.text.as_str()]);
        }
        if dump.total > SHOWN {
            self.screen
                .line(&format!("... {} more", dump.total - SHOWN));
        }
        Ok(())
    }

    fn endpoint<'a>(&self, dump: &'a maps::Dump, name: &str) -> Result<&'a maps::Element> {
        let v4 = self.cast.get(name).host.v4().map(|v4| v4.octets());
        let has_address = |element: &&maps::Element| {
            element.fields["value"]["addr4"] == serde_json::json!(v4.unwrap_or_default())
        };
        let mut elements = dump.elements.iter().filter(has_address);
        elements
            .next()
            .with_context(|| format!("{ENDPOINTS} has no element with the address of {name}"))
    }

    /// The agent's own account.
    pub(super) fn command_line(&mut self) -> Result<()> {
        self.screen.heading("What the agent says");
        self.screen
            .command("policy-agent status   (some of its columns)");
        let status = self.agent.ask(&["status"])?;
        let (head, table) = status.split_once("\n\n").context("status has two parts")?;
        self.screen.quote(head.lines());
        println!();
        let columns = ["POD", "INGRESS", "EGRESS"];
        let endpoints = screen::some_columns(table.lines().take(1 + PODS.len()), &columns);
        self.screen.quote(endpoints.iter().map(String::as_str));
        println!();
        self.screen.command("policy-agent policies");
        let policies = self.agent.ask(&["policies"])?;
        self.screen.quote(policies.lines().take(LINES));
        let more = policies.lines().count().saturating_sub(LINES);
        self.screen.line(&format!("... {more} more lines"));
        Ok(())
    }

    /// Lets the user try things, then takes his manifests away again.
    pub(super) fn look_around(&self) -> Result<()> {
        let agent = self.agent.binary().display();
        let run_dir = self.agent.run_dir().display();
        let log = self.agent.log_path().context("the agent runs")?;
        let netns = |pod: &str| self.cast.get(pod).host.netns().path().display().to_string();
        println!();
        self.screen.line(&self.screen.paint(
            Tone::Heading,
            "The lab stays open. Try, in another terminal:",
        ));
        for command in [
            format!("{agent} status --run-dir {run_dir}"),
            format!("{agent} policies --run-dir {run_dir}"),
            format!("{agent} identities --run-dir {run_dir}"),
            format!("{agent} maps --bpffs {}", self.agent.bpffs().display()),
            format!("nsenter --net={} bash", netns("shop/stranger")),
            format!("tail -f {}", log.display()),
            format!("nano {}/policies.yaml", self.agent.manifests().display()),
        ] {
            println!("  {command}");
        }
        println!();
        self.screen
            .line("The database is at 10.244.0.12 port 5432. Press Enter to remove everything.");
        interrupt::wait_for_enter()
    }
}
