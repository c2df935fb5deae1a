/** The version of this build: `package.json` says the same, a test sees to it. */
export const version = "0.8.0"
