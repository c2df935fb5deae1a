/** The chart's values as the page of Webhook Sync prints them: what is documented is what is tested. */
import { readFileSync } from "node:fs"
import { parse } from "yaml"
import * as Blocks from "../docs/Blocks.ts"

const blocks = Blocks.parse(readFileSync(new URL("../../docs/webhook-sync.md", import.meta.url), "utf8"))

/** YAML of a block `values …`. */
export const values = (name: string): string => {
  const found = blocks.find((block) => block.name === `values ${name}`)
  if (found === undefined) throw new Error(`docs/webhook-sync.md has no block "values ${name}"`)
  return found.text
}

interface Printed {
  readonly webhookReceiver: {
    readonly ingress: {
      readonly enabled: boolean
      readonly annotations: Readonly<Record<string, string>>
      readonly hosts: ReadonlyArray<{ readonly host: string; readonly paths: ReadonlyArray<object> }>
      readonly tls: ReadonlyArray<{ readonly secretName: string; readonly hosts: ReadonlyArray<string> }>
    }
  }
}

export const { ingress } = (parse(values("ingress")) as Printed).webhookReceiver
