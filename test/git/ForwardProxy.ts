/** A proxy as `HTTPS_PROXY` names one. */
import { Effect } from "effect"
import * as Http from "node:http"
import * as Net from "node:net"
import { listen } from "../Loopback.ts"

/** Notes what it is asked for: `CONNECT host:port` or `METHOD url`. */
export const make = Effect.gen(function* () {
  const asked: Array<string> = []
  const server = Http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`)
    const onward = Http.request(request.url!, { method: request.method!, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers)
      answer.pipe(response)
    })
    request.pipe(onward)
  })
  server.on("connect", (request, socket: Net.Socket) => {
    asked.push(`CONNECT ${request.url}`)
    const onward = Net.connect(Number(request.url!.split(":")[1]), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n")
      socket.pipe(onward).pipe(socket)
    })
    onward.on("error", () => socket.destroy())
    socket.on("close", () => onward.destroy())
  })
  return { asked, url: `http://127.0.0.1:${yield* listen(server)}` }
})
