import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Real processes are started by many tests; two cores bear two files at a time.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 180_000
  }
})
