/** The version of this build: `package.json` says the same, a test sees to it. */
export const version = "0.8.0"

/** The oldest Node that has what we and our libraries use. */
export const oldestNode = "22.19.0"

const { compare } = new Intl.Collator("en", { numeric: true })

/** Why this Node cannot run Stoker; undefined when it can. An older one fails somewhere in a library. */
export const nodeProblem = (node: string): string | undefined =>
  compare(node, oldestNode) < 0
    ? `stoker ${version} needs Node ${oldestNode} or newer, and this is ${node}. Install a newer one; "npm ci" brings one for "npm start"`
    : undefined
