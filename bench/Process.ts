/** What Linux says of a process: memory and processor time. */
import { Effect } from "effect"
import { readFileSync } from "node:fs"

/** Resident memory in MiB, from the process's own account. */
export const rss = (pid: number): number => accountOf(pid, "VmRSS")

/** What of it is the process's own. The rest is the program's file, which all processes of a machine have together. */
export const ownMemory = (pid: number): number => accountOf(pid, "RssAnon")

const accountOf = (pid: number, line: string): number =>
  Number(new RegExp(`${line}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN) /
  1024

/** The fields of `/proc/PID/stat` after the name (state, parent, …); undefined when there is no such process. */
export const statOf = (pid: number): ReadonlyArray<string> | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8")
    return text.slice(text.lastIndexOf(")") + 2).split(" ")
  } catch {
    return undefined
  }
}

/** Seconds of processor time that a process has used, its threads included. */
export const cpuSeconds = (pid: number): number => (Number(statOf(pid)?.[11]) + Number(statOf(pid)?.[12])) / 100

/** Waits until a process has done next to nothing for five seconds: it has looked at everything. */
export const quiet = Effect.fnUntraced(function* (pid: number) {
  let before = cpuSeconds(pid)
  while (true) {
    yield* Effect.sleep("5 seconds")
    const now = cpuSeconds(pid)
    if (now - before < 0.25) return
    before = now
  }
})
