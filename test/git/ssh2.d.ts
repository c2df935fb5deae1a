/** The little of `ssh2` that the test server uses; the published types bring those of an older Node along. */
declare module "ssh2" {
  import type { EventEmitter } from "node:events"
  import type { Server as NetServer } from "node:net"
  import type { Duplex, Writable } from "node:stream"

  interface PublicKey {
    readonly type: string
    getPublicSSH(): Buffer
    verify(blob: Buffer, signature: Buffer, algorithm?: string): boolean | Error
  }

  interface Authentication {
    readonly method: string
    readonly key: { readonly algo: string; readonly data: Buffer }
    readonly blob?: Buffer
    readonly signature?: Buffer
    readonly hashAlgo?: string
    accept(): void
    reject(methods: ReadonlyArray<string>): void
  }

  interface Channel extends Duplex {
    readonly stderr: Writable
    exit(code: number): void
  }

  interface Client extends EventEmitter {
    end(): void
  }

  class Server extends NetServer {
    constructor(options: { readonly hostKeys: ReadonlyArray<string> }, onClient: (client: Client) => void)
  }

  const ssh2: {
    readonly Server: typeof Server
    readonly utils: {
      generateKeyPairSync(type: "ed25519"): { readonly private: string; readonly public: string }
      parseKey(key: string): PublicKey
    }
  }
  export default ssh2
  export { Authentication, Channel, Client }
}
