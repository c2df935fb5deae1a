/**
 * The entry: which command. Each is loaded only when it is asked for, so that an agent never pays for the controller.
 */
import { nodeProblem, version } from "./Version.ts"

const usage = `stoker ${version}: keeps Ignition gateways fed with configuration from Git

Usage: stoker COMMAND [flags]

  controller   resolves refs, tells the agents, receives webhooks (one or more replicas in a cluster)
  agent        brings a commit to one gateway (the sidecar in its pod)
  uninstall    frees the GatewaySyncs of the controller's finalizer (what the chart runs before it is removed)
  sandbox      a whole plant on this machine, to look at, to test against and to measure

"stoker COMMAND --help" says more. --version prints the version.
`

const [name, ...args] = process.argv.slice(2)
const problem = nodeProblem(process.versions.node)
if (problem !== undefined) {
  process.stderr.write(`${problem}\n`)
  process.exit(1)
}
switch (name) {
  case "controller":
    void import("./commands/controller.ts").then(({ run }) => run(args))
    break
  case "agent":
    void import("./commands/agent.ts").then(({ run }) => run(args))
    break
  case "uninstall":
    void import("./commands/uninstall.ts").then(({ run }) => run(args))
    break
  case "sandbox":
    void import("./commands/sandbox.ts").then(({ run }) => run(args))
    break
  case "--version":
    process.stdout.write(`${version}\n`)
    break
  case "--help":
  case "-h":
    process.stdout.write(usage)
    break
  default:
    process.stderr.write(
      `${name === undefined ? "No command was given." : `There is no command "${name}".`}\n\n${usage}`
    )
    process.exitCode = 2
}
