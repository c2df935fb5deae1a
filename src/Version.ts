/** The version of this build: `package.json` says the same, a test sees to it. */
export const version = "0.8.0"

/** The oldest Node that has what we and our libraries use. */
export const oldestNode = "22.19.0"

/** Whether a release came before another: "22.2.0" before "22.19.0". Without `Intl`, whose tables cost a process 2 MiB. */
export const isBefore = (release: string, other: string): boolean => sortable(release) < sortable(other)

const sortable = (release: string): string =>
  release
    .split(".")
    .map((part) => part.padStart(8, "0"))
    .join(".")

/** Why this Node cannot run Stoker; undefined when it can. An older one fails somewhere in a library. */
export const nodeProblem = (node: string): string | undefined =>
  isBefore(node, oldestNode)
    ? `stoker ${version} needs Node ${oldestNode} or newer, and this is ${node}. Install a newer one; "npm ci" brings one for "npm start"`
    : undefined
