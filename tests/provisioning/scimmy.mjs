// SCIMMY's service provider (protocol, schemas, filters, PATCH) over two maps: what it says to a client is all its own.
import express from "express";
import SCIMMY from "scimmy";
import SCIMMYRouters from "scimmy-routers";

const [port, token] = process.argv.slice(2);
let last = 0;

function store(name) {
  const held = new Map();
  return {
    ingress: (resource, data) => {
      const taken = [...held.values()].find(
        (one) => one.id !== resource.id && String(one[name]).toLowerCase() === String(data[name]).toLowerCase(),
      );
      if (taken) throw new SCIMMY.Types.Error(409, "uniqueness", `${name} is taken`);
      if (resource.id && !held.has(resource.id)) throw new SCIMMY.Types.Error(404, null, "nothing there");
      const id = resource.id ?? String(++last);
      const kept = { ...JSON.parse(JSON.stringify(data)), id };
      held.set(id, kept);
      return kept;
    },
    egress: (resource) => {
      if (resource.id) {
        if (!held.has(resource.id)) throw new SCIMMY.Types.Error(404, null, "nothing there");
        return held.get(resource.id);
      }
      const all = [...held.values()];
      return resource.filter ? resource.filter.match(all) : all;
    },
    degress: (resource) => {
      if (!held.delete(resource.id)) throw new SCIMMY.Types.Error(404, null, "nothing there");
    },
  };
}

SCIMMY.Resources.declare(SCIMMY.Resources.User.extend(SCIMMY.Schemas.EnterpriseUser, false), store("userName"));
SCIMMY.Resources.declare(SCIMMY.Resources.Group, store("displayName"));

const app = express();
app.use(
  "/scim/v2",
  new SCIMMYRouters({
    type: "bearer",
    handler: (request) => {
      if (request.header("Authorization") !== `Bearer ${token}`) throw new Error("who are you");
      return "hub";
    },
  }),
);
app.listen(Number(port), "127.0.0.1");
