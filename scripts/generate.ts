/** `npm run generate` writes what is made from the Schemas; with `--check` it only says which files are out of date. */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { stringify } from "yaml"
import * as CustomResourceDefinition from "../src/api/CustomResourceDefinition.ts"
import * as Reference from "./Reference.ts"
import * as Values from "./Values.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const isCheck = process.argv.includes("--check")

const crd = `# Made from src/api by "npm run generate"; edit the Schemas there.
${stringify(CustomResourceDefinition.gatewaySyncs, { lineWidth: 120, aliasDuplicateObjects: false })}`

const values = Values.table(Values.read(await readFile(join(root, "charts/stoker-operator/values.yaml"), "utf8")))

const chart = `# stoker-operator

Made from \`values.yaml\` by "npm run generate"; edit that.

\`\`\`sh
helm install stoker oci://ghcr.io/ia-eknorr/charts/stoker-operator -n stoker-system --create-namespace
\`\`\`

An uninstall first stops the controllers and takes their finalizer off every GatewaySync (\`uninstallHook\`); the
CustomResourceDefinition and the GatewaySyncs stay, and the gateways keep what they have.

## Values

${values}
`

const files = {
  "charts/stoker-operator/README.md": chart,
  "docs/reference.md": await Reference.render(root, values),
  "crds/stoker.io_gatewaysyncs.yaml": crd,
  // Helm installs what lies in a chart's own crds/.
  "charts/stoker-operator/crds/stoker.io_gatewaysyncs.yaml": crd
}

for (const [file, wanted] of Object.entries(files)) {
  const path = join(root, file)
  const found = await readFile(path, "utf8").catch(() => undefined)
  if (found === wanted) continue
  if (isCheck) {
    console.error(`${file} is ${found === undefined ? "missing" : "out of date"}; run: npm run generate`)
    process.exitCode = 1
  } else {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, wanted)
    console.log(`wrote ${file}`)
  }
}
