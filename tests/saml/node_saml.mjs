// A service provider by @node-saml/node-saml: /secret signs in, /logout signs out, /acs and /slo take what the hub sends.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import { SAML, ValidateInResponseTo } from "@node-saml/node-saml";

const [port, folder] = process.argv.slice(2);
const base = `http://127.0.0.1:${port}`;
const read = (name) => readFileSync(`${folder}/${name}`, "utf8");
const hub = read("hub.xml");
const location = (service) =>
  new RegExp(`<md:${service}[^>]*HTTP-Redirect"[^>]*Location="([^"]+)"`).exec(hub)[1];
const saml = new SAML({
  issuer: `${base}/sp`,
  callbackUrl: `${base}/acs`,
  logoutCallbackUrl: `${base}/slo`,
  entryPoint: location("SingleSignOnService"),
  logoutUrl: location("SingleLogoutService"),
  idpIssuer: /entityID="([^"]+)"/.exec(hub)[1],
  idpCert: read("hub.pem"),
  privateKey: read("key.pem"),
  publicCert: read("certificate.pem"),
  signatureAlgorithm: "sha256",
  digestAlgorithm: "sha256",
  identifierFormat: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
  wantAssertionsSigned: true,
  wantAuthnResponseSigned: true,
  // "always" looks for it in answers to a logout where they have none for it.
  validateInResponseTo: ValidateInResponseTo.ifPresent,
  acceptedClockSkewMs: 0,
});
const sessions = new Map();
const forget = (profile) => {
  for (const [key, held] of sessions)
    if (held.nameID === profile.nameID && held.sessionIndex === profile.sessionIndex) sessions.delete(key);
};

const body = async (request) => {
  let text = "";
  for await (const part of request) text += part;
  return Object.fromEntries(new URLSearchParams(text));
};
const go = (response, to) => response.writeHead(303, { location: to }).end();
const say = (response, text) => response.writeHead(200, { "content-type": "text/html" }).end(text);

const routes = {
  "/metadata": async (request, response) =>
    say(response, saml.generateServiceProviderMetadata(null, read("certificate.pem"))),
  "/secret": async (request, response, session) => {
    if (!session) return go(response, await saml.getAuthorizeUrlAsync("/secret", undefined, {}));
    const told = Object.entries(session.attributes).map(([name, value]) => `${name}=${[value].flat().join(",")}\n`);
    say(response, told.join(""));
  },
  "/acs": async (request, response) => {
    const { profile } = await saml.validatePostResponseAsync(await body(request));
    const key = randomUUID();
    sessions.set(key, profile);
    response.setHeader("set-cookie", `node_saml=${key}; Path=/; HttpOnly`);
    go(response, "/secret");
  },
  "/logout": async (request, response, session) => {
    forget(session);
    go(response, await saml.getLogoutUrlAsync(session, "", {}));
  },
  "/slo": async (request, response) => {
    const query = request.url.split("?")[1];
    const fields = query ? Object.fromEntries(new URLSearchParams(query)) : await body(request);
    const isAnswer = "SAMLResponse" in fields;
    const { profile, loggedOut } = query
      ? await saml.validateRedirectAsync(fields, query)
      : isAnswer
        ? await saml.validatePostResponseAsync(fields)
        : await saml.validatePostRequestAsync(fields);
    if (!loggedOut) throw new Error("no logout");
    if (isAnswer) return say(response, "out");
    forget(profile);
    go(response, await saml.getLogoutResponseUrlAsync(profile, fields.RelayState ?? "", {}, true));
  },
};

createServer(async (request, response) => {
  const key = /(?:^|; )node_saml=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
  const route = routes[request.url.split("?")[0]];
  try {
    if (!route) return response.writeHead(404).end();
    await route(request, response, sessions.get(key));
  } catch (error) {
    console.error(error);
    response.writeHead(500, { "content-type": "text/plain" }).end(String(error));
  }
}).listen(Number(port), "127.0.0.1");
